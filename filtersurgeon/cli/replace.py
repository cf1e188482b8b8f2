from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.accuracy import accuracy_table, before_and_after, spec
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.streams import check_destination, deliver, opened

if TYPE_CHECKING:
    from filtersurgeon.cli.accuracy import Accuracy
    from filtersurgeon.transforms.replace import LayerReplacement

MAX_COLUMNS = 12


def replace(
    source: options.Input = "-",
    bank: Annotated[
        list[str] | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            help="A bank's name or file; repeated, a layer takes the first of its kernel size.  "
            "[default: dog8]",
            autocompletion=banks,
        ),
    ] = None,
    layers: options.Layers = None,
    all_spatial: Annotated[
        bool,
        typer.Option("--all-spatial", help="Standard convolutions too, kernel by kernel."),
    ] = False,
    bias: Annotated[
        str, typer.Option("--bias", help="keep: fit a*g + b; drop: fit a*g alone.")
    ] = "keep",
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Move the scale a into the layer that follows, exactly; leave kernels g + b/a.",
        ),
    ] = False,
    output: options.Output = None,
    dry_run: options.DryRun = False,
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE", help="Draw kernels before and after (PNG, SVG)."),
    ] = None,
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    subset: options.Subset = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    arch: options.Arch = None,
    factory: options.Factory = None,
    preprocess: options.Preprocess = None,
    as_json: options.Json = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Replace kernels by the closest of a bank.

    Every depthwise kernel becomes the closest linear transform a*g + b of a bank member g.
    --dry-run shows, for every layer, the relative error and how often each member is used.
    With --data, accuracy before and after is shown too.
    """
    from filtersurgeon.filters import natural_order
    from filtersurgeon.plots.pictures import check_picture_path, draw_before_after
    from filtersurgeon.transforms.replace import replace as replace_kernels

    check_picture_path(picture, force)
    if not dry_run:
        check_destination(output, source, force)
    done: dict[str, LayerReplacement] = {}
    known = options.architecture(arch, factory)
    with opened(source, arch=known, allow_pickle=allow_pickle, quiet=quiet) as checkpoint:
        edited = replace_kernels(
            checkpoint, bank=bank or "dog8", layers=layers, all_spatial=all_spatial, bias=bias,
            fold=fold, observe=lambda layer: done.update({layer.name: layer}),
        )  # fmt: skip
        for text in edited.notes[len(checkpoint.notes) :]:
            show.note(f"note: {text}", quiet)
        accuracy = None
        if data:
            accuracy = before_and_after(
                (checkpoint, edited),
                spec(data, labels, root, subset, seed),
                (batch_size, workers, device),
                options.preprocess_values(preprocess),
                quiet,
            )
        if dry_run:
            for change in edited.changes:
                for _ in edited[change.tensor].blocks():
                    pass
        else:
            deliver(edited, output, force=force, quiet=quiet)
        report = sorted(done.values(), key=lambda layer: natural_order(layer.name))
        if picture:
            draw_before_after(checkpoint, edited, picture)
    if dry_run:
        content = _content(bank or ["dog8"], report, accuracy)
        show.result(content, lambda: _render(report, accuracy), as_json=as_json)
        return
    show.note(_summary(report), quiet)
    if accuracy and not quiet:
        show.console(stderr=True).print(accuracy_table(accuracy))


def _content(
    bank: Sequence[str], report: Sequence[LayerReplacement], accuracy: Accuracy | None
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "schema": "filtersurgeon.replacement/1",
        "bank": bank[0] if len(bank) == 1 else list(bank),
        "relative_error": _overall_error(report),
        "layers": [layer.to_json() for layer in report],
    }
    if accuracy:
        content["accuracy"] = {
            word: found.to_dict() for word, found in zip(("before", "after"), accuracy, strict=True)
        }
    return content


def _render(report: Sequence[LayerReplacement], accuracy: Accuracy | None) -> Iterator[Any]:
    for bank in dict.fromkeys((layer.bank, layer.labels) for layer in report):
        yield _table(bank[0], [x for x in report if (x.bank, x.labels) == bank])
    yield _summary(report)
    if accuracy:
        yield ""
        yield accuracy_table(accuracy)


def _table(bank: str, report: Sequence[LayerReplacement]) -> Any:
    members = report[0].labels
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
    return show.table(f"closest of {bank}", columns, rows)


def _most_used(layer: LayerReplacement, count: int = 5) -> str:
    first = layer.usage.argsort(kind="stable")[::-1][:count]
    return "  ".join(f"{layer.labels[k]}: {layer.usage[k]}" for k in first)


def _summary(report: Sequence[LayerReplacement]) -> str:
    kernels = sum(layer.n_kernels for layer in report)
    mean = sum(layer.n_kernels * layer.relative_error for layer in report) / kernels
    banks = " and ".join(dict.fromkeys(layer.bank for layer in report))
    return (
        f"replaced {kernels:,} kernels in {len(report)} layers by {banks}, "
        f"mean relative error {mean:.3f}, {_overall_error(report):.3f} of all weights together"
    )


def _overall_error(report: Sequence[LayerReplacement]) -> float:
    """Give ``||new - old|| / ||old||`` over all layers."""
    energy = sum(layer.energy for layer in report)
    lost = sum(layer.energy * layer.relative_error**2 for layer in report)
    return float((lost / energy) ** 0.5) if energy else 0.0
