from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.data.data import DataSpec
    from filtersurgeon.learn.comparison import Comparison, Side


def compare(
    first: Annotated[str, typer.Argument(metavar="A", show_default=False, help="The reference.")],
    second: Annotated[
        str, typer.Argument(metavar="[B]", show_default=False, help="What to compare with it.")
    ] = "-",
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
    split: options.Split = None,
    random: Annotated[
        int, typer.Option("--random", metavar="N", help="N random inputs instead of data.", min=0)
    ] = 0,
    subset: options.Subset = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    batch_size: options.BatchSize = 32,
    workers: options.Workers = 0,
    device: options.Device = "cpu",
    latency_runs: Annotated[
        int, typer.Option("--latency-runs", metavar="N", help="Timed passes; 0 for none.", min=0)
    ] = 20,
    max_diff: Annotated[
        float | None,
        typer.Option(
            "--max-diff", metavar="X", help="Exit with 1 above this relative difference.", min=0
        ),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop", metavar="P", help="Exit with 1 if top-1 drops by more points.", min=-100
        ),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE", help="Draw both side by side (PNG, SVG)."),
    ] = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
    arch_b: Annotated[
        str | None, typer.Option("--arch-b", metavar="NAME", help="B's, where it is not A's.")
    ] = None,
    factory_b: Annotated[
        str | None,
        typer.Option("--factory-b", metavar="MODULE:FUNCTION", help="B's, where it is not A's."),
    ] = None,
    preprocess: options.Preprocess = None,
    as_json: options.Json = None,
    output: options.Results = None,
    force: options.Force = False,
    allow_pickle: options.AllowPickle = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,  # noqa: ARG001 - acts through its callback
) -> None:
    """Compare two checkpoints side by side.

    Parameters, multiply-accumulates, size, latency, the difference of the outputs on the same
    inputs (the length of B's minus A's by the length of A's), and with --data the accuracy of
    both. B may be another architecture with as many classes.
    """
    from pathlib import Path

    from filtersurgeon.learn.compare import ComparisonSettings
    from filtersurgeon.learn.evaluating import compare as compare_checkpoints
    from filtersurgeon.learn.picture import plot_comparison
    from filtersurgeon.plots.pictures import check_picture_path

    show.check_json_path(output, force)
    check_picture_path(picture, force)
    if first == second == "-":
        raise OptionError("only one of A and B can come through the pipe; name the other")
    if max_drop is not None and not data:
        raise OptionError("--max-drop compares accuracies: name labelled images with --data")
    spec = _spec(data, (split, labels, root, subset, seed, skip_bad))
    architecture = options.architecture(arch, factory)
    other_architecture = options.architecture(arch_b, factory_b, "-b") or architecture
    with (
        opened(first, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as one,
        opened(second, arch=other_architecture, allow_pickle=allow_pickle, quiet=quiet) as other,
        show.progress("comparing", quiet) as progress,
    ):
        found = compare_checkpoints(
            (one, other),
            spec,
            ComparisonSettings(batch_size, workers, device, latency_runs),
            random=random,
            seed=seed,
            preprocess=options.preprocess_values(preprocess),
            progress=progress,
            tell=show.teller(quiet),
        )
    show.result(found.to_dict(), lambda: _render(found), as_json=as_json, output=output)
    if picture:
        plot_comparison(found, Path(picture))
    failures = found.failures(max_diff, max_drop)
    for failure in failures:
        show.note(failure)
    if failures:
        raise typer.Exit(1)


def _spec(data: str | None, rest: tuple[Any, ...]) -> DataSpec | None:
    """Say which images, or refuse options that would do nothing without any."""
    from filtersurgeon.data.data import DataSpec

    if data:
        return DataSpec(data, *rest)
    split, labels, root, subset, _, skip_bad = rest
    for option, given in (
        ("--split", split), ("--labels", labels), ("--root", root),
        ("--subset", subset), ("--skip-bad", skip_bad),
    ):  # fmt: skip
        if given:
            raise OptionError(f"{option} needs --data")
    return None


def _render(found: Comparison) -> Iterator[Any]:
    from filtersurgeon.learn.comparison import short_names

    sides = (found.first, found.second)
    rows: list[tuple[object, ...]] = [
        ("parameters", *(side.parameters for side in sides)),
        ("MACs", *(side.macs for side in sides)),
        ("bytes", *(side.file_bytes or "" for side in sides)),
    ]
    if found.first.latency:
        rows += [("latency, ms", *(_latency(side) for side in sides))]
    if found.first.evaluation:
        rows += [("top-1, %", *(_accuracy(side) for side in sides))]
    columns = [("", "left"), *((name, "right") for name in short_names(found))]
    yield show.table("comparison", columns, rows)
    gap = found.difference
    yield (
        f"outputs on {gap.n_inputs:,} inputs: relative difference {gap.relative_mean:.3g} in the "
        f"mean, {gap.relative_max:.3g} at most\nsame class for {gap.agreement:.1%}"
    )


def _latency(side: Side) -> str:
    """Give the median and the quartiles."""
    assert side.latency is not None
    found = side.latency
    return f"{found.median_ms:.2f} ({found.low_ms:.2f} to {found.high_ms:.2f})"


def _accuracy(side: Side) -> str:
    """Give the accuracy and its 95 % interval."""
    assert side.evaluation is not None
    low, high = side.evaluation.interval()
    return f"{100 * side.evaluation.accuracy:.2f} ({100 * low:.2f} to {100 * high:.2f})"
