from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.exports.exporting import Export


def export(
    source: options.Input = "-",
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="The .onnx or .pt2 file to write."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="onnx or torch-export; by default as the file ends."),
    ] = None,
    opset: Annotated[
        int,
        typer.Option("--opset", metavar="N", help="ONNX operators; 0: the exporter's own.", min=0),
    ] = 0,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Take any number of images; else one.")
    ] = False,
    input_size: Annotated[
        str | None,
        typer.Option("--input-size", metavar="C,H,W", help="Instead of the network's own sizes."),
    ] = None,
    random: Annotated[
        int, typer.Option("--random", metavar="N", help="Compare on N random images.", min=1)
    ] = 4,
    seed: options.Seed = 0,
    max_diff: Annotated[
        float | None,
        typer.Option(
            "--max-diff",
            metavar="X",
            help="Above this relative difference, exit with 1 and write nothing.",
            min=0,
        ),
    ] = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Write a network as ONNX or by torch.export, and compare its outputs.

    What was written is run again, by onnxruntime or torch, on random images; the largest
    difference is printed. The same input and options give the same bytes.
    """
    from pathlib import Path

    from filtersurgeon.exports.exporting import check_export
    from filtersurgeon.exports.exporting import export as export_network

    if output is None:
        raise OptionError("give -o FILE.onnx or -o FILE.pt2")
    check_export(Path(output), format, opset, force=force)
    architecture, size = options.architecture(arch, factory), _size(input_size)
    with opened(source, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        made = export_network(
            checkpoint,
            output,
            format=format,
            opset=opset,
            dynamic_batch=dynamic_batch,
            input_size=size,
            random=random,
            seed=seed,
            max_diff=max_diff,
            force=force,
        )
    show.result(made.to_json(), lambda: _render(made, output), as_json=as_json)
    found = made.difference.relative_max
    if max_diff is not None and not found <= max_diff:
        show.note(f"relative difference {found:.3g} is above {max_diff:g}; {output} is not written")
        raise typer.Exit(1)


def _size(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not 2 <= len(parts) <= 4 or not all(
        part.strip().isdecimal() and int(part) for part in parts
    ):
        raise OptionError(f"--input-size {text} should read C,H,W, such as 3,224,224")
    return tuple(map(int, parts))


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
