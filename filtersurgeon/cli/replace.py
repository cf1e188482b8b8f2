from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.streams import check_destination, deliver, opened

if TYPE_CHECKING:
    from filtersurgeon.transforms.replace import LayerReplacement

MAX_COLUMNS = 12


def replace(
    source: options.Input = "-",
    bank: Annotated[
        str,
        typer.Option(
            "--bank", "-b", metavar="BANK", help="A bank's name or file.", autocompletion=banks
        ),
    ] = "dog8",
    layers: options.Layers = None,
    all_spatial: Annotated[
        bool,
        typer.Option("--all-spatial", help="Standard convolutions too, kernel by kernel."),
    ] = False,
    output: options.Output = None,
    dry_run: options.DryRun = False,
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE", help="Draw kernels before and after (PNG, SVG)."),
    ] = None,
    arch: options.Arch = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Replace kernels by the closest of a bank.

    Every depthwise kernel becomes the closest linear transform a*g + b of a bank member g.
    --dry-run shows, for every layer, the relative error and how often each member is used.
    """
    from filtersurgeon.filters import natural_order
    from filtersurgeon.report.pictures import check_picture_path, draw_before_after
    from filtersurgeon.transforms.replace import replace as replace_kernels

    check_picture_path(picture, force)
    if not dry_run:
        check_destination(output, source, force)
    done: list[LayerReplacement] = []
    with opened(source, arch=arch, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        edited = replace_kernels(
            checkpoint, bank=bank, layers=layers, all_spatial=all_spatial, observe=done.append
        )
        for text in edited.notes[len(checkpoint.notes) :]:
            show.note(f"note: {text}", quiet)
        if dry_run:
            for change in edited.changes:
                for _ in edited[change.tensor].blocks():
                    pass
        else:
            deliver(edited, output, force=force, quiet=quiet)
        report = sorted(done, key=lambda layer: natural_order(layer.name))
        if picture:
            draw_before_after(checkpoint, edited, picture)
    if dry_run:
        show.result(_content(bank, report), lambda: _render(bank, report), as_json=as_json)
    else:
        show.note(_summary(bank, report), quiet)


def _content(bank: str, report: Sequence[LayerReplacement]) -> dict[str, Any]:
    return {
        "schema": "filtersurgeon.replacement/1",
        "bank": bank,
        "layers": [layer.to_json() for layer in report],
    }


def _render(bank: str, report: Sequence[LayerReplacement]) -> Iterator[Any]:
    members = list(dict.fromkeys(label for layer in report for label in layer.labels))
    columns = [("layer", "left"), ("kernels", "right"), ("error", "right")]
    if len(members) <= MAX_COLUMNS:
        columns += [(member, "right") for member in members]
    else:
        columns += [("most used", "left")]
    rows = [
        (
            layer.name,
            layer.n_kernels,
            layer.relative_error,
            *(map(int, layer.usage) if len(members) <= MAX_COLUMNS else [_most_used(layer)]),
        )
        for layer in report
    ]
    yield show.table(f"closest of {bank}", columns, rows)
    yield _summary(bank, report)


def _most_used(layer: LayerReplacement, count: int = 5) -> str:
    first = layer.usage.argsort(kind="stable")[::-1][:count]
    return "  ".join(f"{layer.labels[k]}: {layer.usage[k]}" for k in first)


def _summary(bank: str, report: Sequence[LayerReplacement]) -> str:
    kernels = sum(layer.n_kernels for layer in report)
    error = sum(layer.n_kernels * layer.relative_error for layer in report) / kernels
    return (
        f"replaced {kernels:,} kernels in {len(report)} layers by {bank}, "
        f"mean relative error {error:.3f}"
    )
