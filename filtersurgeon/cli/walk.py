from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.see.walk.scene import Scene


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

    from filtersurgeon.report.page import check_page_path
    from filtersurgeon.see.walk.walking import WalkSettings
    from filtersurgeon.see.walk.walking import walk as write_walk

    if not output:
        raise OptionError("no output: name the page with -o FILE.html")
    if source == beside == "-":
        raise OptionError("only one checkpoint can come through the pipe; name the other")
    if units and not (decode or maximize):
        raise OptionError("--units goes with --decode or --maximize")
    check_page_path(output, force)
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
        scene = write_walk(
            checkpoint, output, images or [], others[0] if others else None, settings,
            progress=progress, tell=lambda text: show.note(f"note: {text}", quiet),
        )  # fmt: skip
    show.note(f"{output}: {_summary(scene)}", quiet)


def _summary(scene: Scene) -> str:
    panels = sum(len(network.panels) for network in scene.networks)
    channels = sum(p.shape[0] for network in scene.networks for p in network.panels)
    images = len(scene.pictures)
    return f"{panels} layers, {channels:,} maps, {images} image{'s' if images > 1 else ''}"
