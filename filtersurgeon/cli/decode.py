from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, verb, without
from filtersurgeon.cli.running import Computation, Data
from filtersurgeon.cli.verbs import OUTPUT
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.see.decoding import Decoded


@dataclass(frozen=True)
class Decoding(Bundle):
    """Settings of decoding."""

    layers: options.SeenLayers = None
    units: options.Units = None
    upsample: Annotated[
        str,
        options.choice(
            "--upsample",
            among=("nearest", "bilinear", "bicubic"),
            help="Upsampling that replaces pooling.",
        ),
    ] = "nearest"
    threshold: Annotated[
        float,
        typer.Option(
            "--threshold",
            metavar="SHARE",
            parser=options.fraction,
            help="Also draw without weights below this share of a filter's largest magnitude.",
        ),
    ] = 0.0
    error: Annotated[
        bool,
        typer.Option("--error", help="Measure how well decoded filters predict units on --data."),
    ] = False
    top: Annotated[
        int,
        typer.Option(
            "--top",
            metavar="K",
            help="Show the K images of --data with the highest activation of each unit.",
            min=0,
        ),
    ] = 0
    sort: Annotated[
        str,
        options.choice(
            "--sort",
            among=("index", "response"),
            help="Order of the units. response: highest activation on --data first; without "
            "--units, the 64 units with the highest are decoded.",
        ),
    ] = "index"

    @property
    def sorts(self) -> bool:
        """Whether the units are sorted by what they answer to images."""
        return self.sort == "response"


@verb("fsurgeon decode m.safetensors --units 0-15 -o decoded.png")
def decode(
    source: options.Input = "-",
    *,
    decoding: Decoding,
    filters: Annotated[
        str | None,
        typer.Option(
            "--filters",
            metavar="FILE.safetensors",
            help="Write the decoded filters, one tensor (units, channels, height, width) per "
            "layer.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    seed: options.Seed = 0,
    data: Data,
    computation: Annotated[Computation, without("workers")],
    network: options.Network,
    output: options.SheetOutput,
    general: options.General,
) -> None:  # fmt: skip
    """Decode filters, channels or classes into image space.

    A unit is replaced by its filter. Every value of the filter is replaced by the filter of the
    layer below, down to the image. Upsampling replaces pooling. Without --layers, the classes are
    decoded. --error compares the activation of each unit with that of its decoded filter. The
    picture shows each layer as a square of units, with class names where these are known.
    """
    from filtersurgeon.see.decoding import (
        DecodeSettings,
        check_filters_path,
        draw_decoded,
        open_images,
        save_filters,
    )
    from filtersurgeon.see.decoding import decode as decode_checkpoint

    uses = {"--error": decoding.error, "--top": decoding.top, "--sort response": decoding.sorts}
    if data.data and not any(uses.values()):
        raise OptionError("--data is used by --error, --top K and --sort response; pass one")
    for option in (option for option, used in uses.items() if used and not data.data):
        raise OptionError(f"{option} needs images: pass them with --data")
    output.check()
    check_filters_path(filters, output.force)
    settings = DecodeSettings(
        decoding.layers, decoding.units, decoding.upsample, computation.device,
        computation.batch_size, decoding.top, decoding.sort,
    )  # fmt: skip
    spec, preprocess, quiet = data.spec(seed), data.preprocessing, general.quiet
    with network.opened(source, quiet) as checkpoint:
        with show.progress("decoding", quiet) as progress:
            found = decode_checkpoint(
                checkpoint, settings, data=spec, preprocess=preprocess, progress=progress,
                tell=show.teller(quiet),
            )  # fmt: skip
        if output.drawn:
            images = open_images(checkpoint, spec, preprocess) if spec and decoding.top else None
            draw_decoded(found, output.drawn, threshold=decoding.threshold, images=images)
    if filters:
        save_filters(found, filters)
    content = {
        "schema": "filtersurgeon.decoding/1",
        "upsample": decoding.upsample,
        "layers": [layer.to_json() for layer in found],
    }
    output.show(content, lambda: _render(found))


def _render(found: Sequence[Decoded]) -> Iterator[Any]:
    columns = [("layer", "left"), ("units", "right"), ("size", "right")]
    fits = [layer.fit for layer in found if layer.fit]
    if fits:
        columns += [("error", "right"), ("+-", "right"), ("top-1 of the filters", "right")]
    rows = []
    for layer in found:
        row: list[object] = [
            layer.layer or "output", len(layer.units), "x".join(map(str, layer.filters.shape[1:]))
        ]  # fmt: skip
        if layer.fit:
            right = layer.fit.accuracy
            row += [f"{layer.fit.error:.4f}", f"{layer.fit.error_deviation:.4f}"]
            row.append("" if right is None else f"{100 * right:.2f} %")
        rows.append(row)
    yield show.table("decoded", columns, rows)
