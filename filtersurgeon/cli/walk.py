from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, only, verb
from filtersurgeon.cli.complete import ranking_methods
from filtersurgeon.cli.running import Computation, Data, ImageFiles
from filtersurgeon.cli.verbs import OUTPUT
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.walk.scene import Scene


@dataclass(frozen=True)
class Content(Bundle):
    """What the walk shows."""

    ranking: Annotated[
        str | None,
        typer.Option(
            "--ranking",
            metavar="METHOD",
            help="Ranking method that scores the filters.  [default: the ranking stored in the "
            "file, else l2]",
            autocompletion=ranking_methods,
        ),
    ] = None
    decode: Annotated[
        list[str] | None,
        typer.Option(
            "--decode", metavar="GLOB", help="Decode channels of these layers; may be repeated."
        ),
    ] = None
    maximize: Annotated[
        list[str] | None,
        typer.Option(
            "--maximize",
            metavar="GLOB",
            help="Generate images that maximise channels of these layers; may be repeated.",
        ),
    ] = None
    units: options.Units = None
    tour: Annotated[
        str | None,
        typer.Option(
            "--tour", metavar="FILE",
            help="Show a tour in the page: steps with text, a YAML file.",
        ),
    ] = None  # fmt: skip
    max_size: Annotated[
        float | None,
        typer.Option(
            "--max-size",
            metavar="MB",
            help="Limit the size of the page: average feature maps, then leave channels out.",
            min=0.1,
        ),
    ] = 50.0


@dataclass(frozen=True)
class Server(Bundle):
    """Whether the walk is served instead of written."""

    serve: Annotated[
        bool,
        typer.Option(
            "--serve",
            help="Serve the walk on this computer until Ctrl-C, for further images and for decoded "
            "or maximised channels on demand. Prints the address.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", help="Port for --serve.  [default: any free one]", min=1,
            max=65535, rich_help_panel=OUTPUT,
        ),
    ] = None  # fmt: skip

    lan: Annotated[
        bool,
        typer.Option(
            "--lan",
            help="With --serve: let other devices of the network in, such as a headset or a phone. "
            "Uses https, with a certificate made for this run.",
            rich_help_panel=OUTPUT,
        ),
    ] = False
    address: Annotated[
        str | None,
        typer.Option(
            "--address", metavar="IP",
            help="IPv4 address of this computer for --lan.  [default: that of its network]",
            rich_help_panel=OUTPUT,
        ),
    ] = None  # fmt: skip

    def check(self, output: str | None, images: list[str] | None) -> None:
        """Refuse what contradicts itself, before any work."""
        if self.serve and output:
            raise OptionError("--serve writes no page; leave -o out, or --serve")
        if self.port and not self.serve:
            raise OptionError("--port needs --serve")
        if self.lan and not self.serve:
            raise OptionError("--lan needs --serve")
        if self.address and not self.lan:
            raise OptionError("--address needs --lan")
        if not self.serve and not output:
            raise OptionError("no output; write the page with -o FILE.html, or --serve it")
        if not self.serve and not images:
            raise OptionError("no image to run the network on: pass one with --image FILE")


@verb("fsurgeon walk m.safetensors --image dog.jpg -o walk.html")
def walk(
    source: options.Input = "-",
    *,
    content: Content,
    images: ImageFiles = None,
    against: Annotated[
        str | None,
        options.against(
            "Second network beside the first, such as a pruned one; removed channels are gaps."
        ),
    ] = None,
    seed: options.Seed = 0,
    data: Annotated[Data, only("preprocess")],
    computation: Annotated[Computation, only("device")],
    network: options.Network,
    output: options.PageOutput,
    server: Server,
    general: options.General,
) -> None:
    """Walk through a network in 3-D, in the browser.

    Writes one HTML file that needs no network connection, with the feature maps of every layer.
    Click a channel for its values, filter, score and spectrum.
    """
    from filtersurgeon.plots.page import check_page_path
    from filtersurgeon.walk.scene import WalkSettings

    server.check(output.output, images)
    sources = options.all_sources(source, [against] if against else [])
    if content.units and not (content.decode or content.maximize):
        raise OptionError("--units needs --decode or --maximize")
    check_page_path(output.output, output.force)
    settings = WalkSettings(
        content.ranking, tuple(content.decode or ()), tuple(content.maximize or ()), content.units,
        content.max_size, seed, computation.device, data.preprocessing, content.tour,
    )  # fmt: skip
    quiet = general.quiet
    with (
        network.all_opened(sources, quiet) as (checkpoint, *others),
        show.progress("computing the walk", quiet) as progress,
    ):
        told: dict[str, Any] = {"progress": progress, "tell": show.teller(quiet)}
        given = (images or [], others[0] if others else None, settings)
        if server.serve:
            from filtersurgeon.walk.serving import serve_walk

            serve_walk(
                checkpoint, *given, port=server.port or 0, lan=server.lan, address=server.address,
                announce=_announce_code if server.lan and not quiet else _announce, **told,
            )  # fmt: skip
            from filtersurgeon.walk.application import is_computing

            if is_computing():
                # A network cannot be interrupted; nothing else is left to be done.
                os._exit(0)
            return
        from filtersurgeon.walk.walking import walk as write_walk

        scene = write_walk(checkpoint, output.output or "", *given, **told)
    show.note(f"{output.output}: {_summary(scene)}", quiet)


def _announce(address: str) -> None:
    with show.standard_output() as stream:
        stream.write(f"{address}\n")


def _announce_code(address: str) -> None:
    """Print an address, and on a terminal the QR code of it, for cameras."""
    import sys

    from filtersurgeon.walk.lan import draw_code

    _announce(address)
    code = draw_code(address) if sys.stderr.isatty() else None
    if code:
        sys.stderr.write(code)


def _summary(scene: Scene) -> str:
    panels = sum(len(network.panels) for network in scene.networks)
    channels = sum(p.shape[0] for network in scene.networks for p in network.panels)
    images = len(scene.pictures)
    return f"{panels} layers, {channels:,} maps, {images} image{'s' if images > 1 else ''}"
