from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.walk.scene import Scene


def walk(
    source: options.Input = "-",
    output: Annotated[
        str,
        typer.Option(
            "-o", "--output", metavar="FILE.html", help="Write the page here.", show_default=False
        ),
    ] = "",
    images: options.Images = None,
    beside: Annotated[
        str | None,
        typer.Option(
            "--beside",
            metavar="INPUT",
            help="A second network beside the first, such as the first after surgery; channels "
            "that it has lost are gaps.",
        ),
    ] = None,
    ranking: Annotated[
        str | None,
        typer.Option(
            "--ranking",
            metavar="METHOD",
            help="Score the filters, such as by archetype.  [default: the ranking in the file, "
            "else l2]",
            autocompletion=ranking_methods,
        ),
    ] = None,
    decode: Annotated[
        list[str] | None,
        typer.Option(
            "--decode", metavar="GLOB", help="Decode channels of these layers; may be repeated."
        ),
    ] = None,
    maximize: Annotated[
        list[str] | None,
        typer.Option(
            "--maximize",
            metavar="GLOB",
            help="Make images that excite channels of these layers; may be repeated.",
        ),
    ] = None,
    units: options.Units = None,
    max_size: Annotated[
        float | None,
        typer.Option(
            "--max-size",
            metavar="MB",
            help="Average maps down, and then leave channels out, until the page is no larger.",
            min=0.1,
        ),
    ] = 50.0,
    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Serve the walk on this computer instead, and take further images, until Ctrl-C; "
            "prints the address.",
        ),
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", help="Of --serve.  [default: any free one]", min=1, max=65535
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "cpu",
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Walk through the network in 3-D, in the browser.

    One HTML file that needs no network connection: every layer's feature maps stand along the way
    that the data takes. Click a channel for its values, filter, score and spectrum.
    """
    from contextlib import ExitStack

    from filtersurgeon.plots.page import check_page_path
    from filtersurgeon.walk.settings import WalkSettings

    _check_output(output, serve, port, images)
    if source == beside == "-":
        raise OptionError("only one checkpoint can come through the pipe; name the other")
    if units and not (decode or maximize):
        raise OptionError("--units goes with --decode or --maximize")
    check_page_path(output or None, force)
    architecture = options.architecture(arch, factory)
    settings = WalkSettings(
        ranking, tuple(decode or ()), tuple(maximize or ()), units, max_size, seed, device,
        options.preprocess_values(preprocess),
    )  # fmt: skip
    with ExitStack() as stack:
        checkpoint, *others = [
            stack.enter_context(
                opened(name, arch=architecture, allow_pickle=allow_pickle, quiet=quiet)
            )
            for name in (source, beside)
            if name
        ]
        progress = stack.enter_context(show.progress("making pictures", quiet))
        told: dict[str, Any] = {
            "progress": progress,
            "tell": show.teller(quiet),
        }
        given = (images or [], others[0] if others else None, settings)
        if serve:
            from filtersurgeon.walk.serving import serve_walk

            serve_walk(checkpoint, *given, port=port or 0, announce=_announce, **told)
            return
        from filtersurgeon.walk.walking import walk as write_walk

        scene = write_walk(checkpoint, output, *given, **told)
    show.note(f"{output}: {_summary(scene)}", quiet)


def _check_output(output: str, serve: bool, port: int | None, images: list[str] | None) -> None:
    """Refuse what contradicts itself, before any work."""
    if serve and output:
        raise OptionError("--serve writes no page; leave -o out, or --serve")
    if port and not serve:
        raise OptionError("--port goes with --serve")
    if not serve and not output:
        raise OptionError("no output: name the page with -o FILE.html, or --serve it")
    if not serve and not images:
        raise OptionError("no image to run the network on: name one with --image FILE")


def _announce(address: str) -> None:
    with show.standard_output() as stream:
        stream.write(f"{address}\n")


def _summary(scene: Scene) -> str:
    panels = sum(len(network.panels) for network in scene.networks)
    channels = sum(p.shape[0] for network in scene.networks for p in network.panels)
    images = len(scene.pictures)
    return f"{panels} layers, {channels:,} maps, {images} image{'s' if images > 1 else ''}"
