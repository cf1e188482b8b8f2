from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, replaced, values, verb
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.exports.exporting import Export


@dataclass(frozen=True)
class Exporting(Bundle):
    """What to write; the fields are parameters of :func:`filtersurgeon.export`."""

    format: Annotated[
        str | None,
        options.choice(
            "--format",
            among=("onnx", "torch-export"),
            help="Format to write.  [default: by the ending of the file]",
        ),
    ] = None
    opset: Annotated[
        int,
        typer.Option(
            "--opset", metavar="N", help="ONNX operator set; 0 is the exporter's default.", min=0
        ),
    ] = 0
    dynamic_batch: Annotated[
        bool,
        typer.Option("--dynamic-batch", help="Accept any number of images per batch, not one."),
    ] = False
    random: Annotated[
        int,
        typer.Option(
            "--random", metavar="N", help="Number of random images to compare outputs on.", min=1
        ),
    ] = 4
    max_diff: Annotated[
        float | None,
        typer.Option(
            "--max-diff",
            metavar="X",
            help="Exit with 1 and write nothing if the relative difference is larger.",
            min=0,
        ),
    ] = None


@verb("fsurgeon export m.safetensors -o m.onnx --max-diff 1e-4")
def export(
    source: options.Input = "-",
    *,
    exporting: Exporting,
    seed: options.Seed = 0,
    network: options.Network,
    output: Annotated[
        options.ResultOutput,
        replaced(output=options.output_option("FILE", "The .onnx or .pt2 file to write.")),
    ],
    general: options.General,
) -> None:  # fmt: skip
    """Export a network to ONNX or by torch.export, and compare its outputs.

    The exported file is run on random images, by onnxruntime or torch, and the largest difference
    is printed. The same input and options give the same bytes.
    """
    from pathlib import Path

    from filtersurgeon.exports.exporting import check_export
    from filtersurgeon.exports.exporting import export as export_network

    path, force = output.output, output.force
    if path is None:
        raise OptionError("no output; pass -o FILE.onnx or -o FILE.pt2")
    check_export(Path(path), exporting.format, exporting.opset, force=force)
    wanted = values(exporting)
    with network.opened(source, general.quiet) as checkpoint:
        made = export_network(checkpoint, path, **wanted, seed=seed, force=force)
    show.result(made.to_json(), lambda: _render(made, path), as_json=output.as_json)
    found, limit = made.difference.relative_max, exporting.max_diff
    if limit is not None and not found <= limit:
        show.note(f"relative difference {found:.3g} is above {limit:g}; {path} is not written")
        raise typer.Exit(1)


def _render(made: Export, output: str) -> Iterator[Any]:
    gap = made.difference
    shape = " x ".join("any" if size is None else str(size) for size in made.input_shape)
    yield show.table(
        output,
        [("", "left"), (made.format, "right")],
        [
            ("bytes", made.file_bytes),
            ("input", shape),
            ("compared on", f"{gap.n_inputs} images"),
            ("largest difference", f"{gap.absolute_max:.3g}"),
            ("largest relative difference", f"{gap.relative_max:.3g}"),
        ],
    )
