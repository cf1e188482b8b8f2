from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.streams import opened

if TYPE_CHECKING:
    from filtersurgeon.learn.comparison import Comparison, Side


def compare(
    first: Annotated[str, typer.Argument(metavar="A", show_default=False, help="The reference.")],
    second: Annotated[
        str, typer.Argument(metavar="[B]", show_default=False, help="What to compare with it.")
    ] = "-",
    data: options.Data = None,
    labels: options.Labels = None,
    root: options.Root = None,
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
        typer.Option("--max-diff", metavar="X", help="Exit with 1 above this relative difference."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option("--max-drop", metavar="P", help="Exit with 1 if top-1 drops by more points."),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option("--picture", metavar="FILE", help="Draw both side by side (PNG, SVG)."),
    ] = None,
    arch: options.Arch = None,
    factory: options.Factory = None,
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
    inputs, and with --data the accuracy of both.
    """
    from filtersurgeon.evaluating import compare as compare_checkpoints
    from filtersurgeon.learn.compare import ComparisonSettings
    from filtersurgeon.learn.data import DataSpec
    from filtersurgeon.learn.picture import plot_comparison
    from filtersurgeon.report.pictures import check_picture_path

    show.check_json_path(output, force)
    check_picture_path(picture, force)
    spec = DataSpec(data, "test", labels, root, subset, seed, skip_bad) if data else None
    architecture = options.architecture(arch, factory)
    with (
        opened(first, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as one,
        opened(second, arch=architecture, allow_pickle=allow_pickle, quiet=quiet) as other,
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
            tell=lambda text: show.note(f"note: {text}", quiet),
        )
    show.result(found.to_dict(), lambda: _render(found), as_json=as_json, output=output)
    if picture:
        plot_comparison(found, Path(picture))
    failures = found.failures(max_diff, max_drop)
    for failure in failures:
        show.note(failure)
    if failures:
        raise typer.Exit(1)


def _render(found: Comparison) -> Iterator[Any]:
    sides = (found.first, found.second)
    rows = [("parameters", *(side.parameters for side in sides))]
    rows += [("MACs", *(side.macs for side in sides))]
    rows += [("bytes", *(side.file_bytes or 0 for side in sides))]
    rows += [(name, *(_word(side, name) for side in sides)) for name in ("latency ms", "top-1 %")]
    columns = [("", "left"), *((Path(side.name).name, "right") for side in sides)]
    yield show.table("comparison", columns, rows)
    gap = found.difference
    yield (
        f"outputs on {gap.n_inputs:,} inputs: largest relative difference {gap.relative_max:.3g}, "
        f"mean {gap.relative_mean:.3g}; same class for {gap.agreement:.1%}"
    )


def _word(side: Side, row: str) -> str:
    if row == "top-1 %":
        return f"{100 * side.evaluation.accuracy:.2f}" if side.evaluation else ""
    if side.latency is None:
        return ""
    return f"{side.latency.median_ms:.2f}"
