from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.accuracy import accuracy_table, before_and_after, warn_of_unknown
from filtersurgeon.cli.bundles import Bundle, values, verb, without
from filtersurgeon.cli.complete import banks
from filtersurgeon.cli.running import DATA_DEVICE, Compensation, Computation, Data

if TYPE_CHECKING:
    from filtersurgeon.cli.accuracy import Accuracy
    from filtersurgeon.transforms.replace import LayerReplacement

MAX_COLUMNS = 12


@dataclass(frozen=True)
class Replacement(Bundle):
    """How to replace; the fields are parameters of :func:`filtersurgeon.replace`."""

    bank: Annotated[
        list[str] | None,
        typer.Option(
            "--bank",
            "-b",
            metavar="BANK",
            help="Name or file of a bank. If repeated, a layer takes the first bank of its kernel "
            "size.  [default: dog8]",
            autocompletion=banks,
        ),
    ] = None
    layers: options.Layers = None
    all_spatial: Annotated[
        bool,
        typer.Option("--all-spatial", help="Include standard convolutions, kernel by kernel."),
    ] = False
    bias: Annotated[
        str,
        options.choice(
            "--bias", among=("keep", "drop"), help="keep: fit a*g + b. drop: fit a*g without b."
        ),
    ] = "keep"
    fit: Annotated[
        str | None,
        options.choice(
            "--fit",
            among=("weights", "outputs"),
            help="Fit the weights of each kernel, or its outputs on the images of --data.  "
            "[default: outputs with --compensate, else weights]",
        ),
    ] = None
    fold: Annotated[
        bool,
        typer.Option(
            "--fold",
            help="Move the scale a into the next layer, exactly; kernels become g + b/a.",
        ),
    ] = False


@verb("fsurgeon replace m.safetensors --bank dog8 -o replaced.safetensors")
def replace(
    source: options.Input = "-",
    *,
    replacement: Replacement,
    picture: Annotated[
        str | None, options.picture("Draw kernels before and after (PNG, SVG).")
    ] = None,
    seed: options.Seed = 0,
    compensation: Compensation,
    data: Annotated[Data, without("split", "skip_bad")],
    computation: Annotated[Computation, DATA_DEVICE],
    network: options.Network,
    output: options.CheckpointOutput,
    general: options.General,
) -> None:
    """Replace kernels by the closest kernels of a bank.

    Every depthwise kernel becomes the closest linear transform a*g + b of a bank member g.
    --dry-run shows the relative error of every layer, and how often each member is used. With
    --data, the accuracy before and after is shown; with --compensate or --fit outputs, its images
    adapt the network instead. Measure the accuracy with fsurgeon eval on other images.
    """
    from filtersurgeon.filters import natural_order
    from filtersurgeon.plots.pictures import check_picture_path, draw_before_after
    from filtersurgeon.transforms.replace import replace as replace_kernels

    check_picture_path(picture, output.force)
    output.check(source)
    data.refuse_computation(computation)
    banks_used = replacement.bank or ["dog8"]
    wanted = {**values(replacement), "bank": replacement.bank or "dog8"}
    adapts = compensation.compensate != "none" or replacement.fit == "outputs"
    done: dict[str, LayerReplacement] = {}
    with network.opened(source, general.quiet) as opened:
        checkpoint = data.remembered(opened)
        run = data.run(seed, computation, general.quiet) if adapts else None
        edited = replace_kernels(
            checkpoint, **wanted, **values(compensation), data=run, seed=seed,
            observe=lambda layer: done.update({layer.name: layer}),
        )  # fmt: skip
        for text in edited.notes[len(checkpoint.notes) :]:
            show.note(f"note: {text}", general.quiet)
        images, accuracy = data.spec(seed), None
        if images and not adapts:
            accuracy = before_and_after(
                (checkpoint, edited), images, computation.settings(), data.preprocessing,
                general.quiet,
            )  # fmt: skip
        if output.dry_run:
            for change in edited.changes:
                for _ in edited[change.tensor].blocks():
                    pass
        else:
            output.deliver(edited, general.quiet)
        report = sorted(done.values(), key=lambda layer: natural_order(layer.name))
        if picture:
            draw_before_after(checkpoint, edited, picture)
    if output.dry_run:
        content = _content(banks_used, report, accuracy)
        output.show(content, lambda: _render(report, accuracy))
        return
    show.note(_summary(report), general.quiet)
    if accuracy and not general.quiet:
        show.console(stderr=True).print(accuracy_table(accuracy))
    if not accuracy:
        remedy = "`data` shows it; `compensate` with `data` keeps what can be kept"
        warn_of_unknown(output, remedy, adapts, general.quiet)


def _content(
    bank: Sequence[str], report: Sequence[LayerReplacement], accuracy: Accuracy | None
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "schema": "filtersurgeon.replacement/2",
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
