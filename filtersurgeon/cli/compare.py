from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from filtersurgeon.cli import options, show
from filtersurgeon.cli.bundles import Bundle, changed, replaced, verb
from filtersurgeon.cli.running import Computation, Data
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from filtersurgeon.learn.compare import Comparison, Side


@dataclass(frozen=True)
class Checks(Bundle):
    """What to measure, and when to fail."""

    random: Annotated[
        int,
        typer.Option("--random", metavar="N", help="Use N random inputs instead of --data.", min=0),
    ] = 0
    latency_runs: options.LatencyRuns = 20
    runtime: options.Runtime = "torch"
    max_diff: Annotated[
        float | None,
        typer.Option(
            "--max-diff",
            metavar="X",
            help="Exit with 1 if the relative difference is larger.",
            min=0,
        ),
    ] = None
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            metavar="PERCENT",
            parser=options.points,
            help="Exit with 1 if top-1, or the mean ROC AUC or Dice, drops by more percentage "
            "points, such as 0.5%.",
        ),
    ] = None


@verb("fsurgeon compare pruned.safetensors --against m.safetensors --random 8")
def compare(
    first: Annotated[
        str | None,
        typer.Argument(
            metavar="[A]", show_default=False, help="The reference, unless --against names it."
        ),
    ] = None,
    second: Annotated[
        str | None,
        typer.Argument(
            metavar="[B]",
            show_default=False,
            help="The checkpoint to compare with the reference.  [default: -]",
        ),
    ] = None,
    *,
    against: Annotated[
        str | None, options.against("The reference; B is then the only argument.")
    ] = None,
    checks: Checks,
    seed: options.Seed = 0,
    data: Data,
    computation: Annotated[Computation, changed(batch_size=32)],
    network: options.Network,
    other: options.OtherNetwork,
    output: Annotated[
        options.DrawnOutput,
        replaced(picture=options.picture("Draw both side by side (PNG, SVG, PDF).")),
    ],
    general: options.General,
) -> None:
    """Compare two checkpoints side by side.

    Shows parameters, multiply-accumulates, size, latency, and the difference of the outputs on the
    same inputs, relative to the length of A's outputs. With --data, also the accuracy of both. B
    may be another architecture with as many classes.
    """
    from pathlib import Path

    from filtersurgeon.learn.compare import ComparisonSettings, plot_comparison
    from filtersurgeon.learn.evaluating import compare as compare_checkpoints

    output.check()
    reference, compared = _sides(first, second, against)
    if checks.max_drop is not None and not data.data:
        raise OptionError("--max-drop compares accuracies: pass labelled images with --data")
    data.refuse_alone()
    spec, quiet = data.spec(seed), general.quiet
    settings = ComparisonSettings(
        computation.batch_size,
        computation.workers,
        computation.device,
        checks.latency_runs,
        runtime=checks.runtime,
    )
    other_network = other.beside(network)
    with (
        network.opened(reference, quiet) as one,
        other_network.opened(compared, quiet) as two,
        show.progress("comparing", quiet) as progress,
    ):
        found = compare_checkpoints(
            (one, two), spec, settings, random=checks.random, seed=seed,
            preprocess=data.preprocessing, progress=progress, tell=show.teller(quiet),
        )  # fmt: skip
    output.show(found.to_dict(), lambda: _render(found))
    if output.drawn:
        plot_comparison(found, Path(output.drawn))
    failures = found.failures(checks.max_diff, checks.max_drop)
    for failure in failures:
        show.note(failure)
    if failures:
        raise typer.Exit(1)


def _sides(first: str | None, second: str | None, against: str | None) -> tuple[str, str]:
    """Tell the reference from the checkpoint to compare with it.

    Raises:
        OptionError: no reference, or one too many, or both are to come through the pipe.
    """
    if against is not None and second is not None:
        raise OptionError("A and --against both name the reference; leave one out")
    if against is not None:
        first, second = against, first
    if first is None:
        raise OptionError("no reference to compare with; pass A B, or B --against A")
    if first == (second or "-") == "-":
        raise OptionError(
            "only one of A and B can be read from the pipe; pass a file for the other"
        )
    return first, second or "-"


def _render(found: Comparison) -> Iterator[Any]:
    from filtersurgeon.learn.compare import short_names

    sides = (found.first, found.second)
    rows: list[tuple[object, ...]] = [
        ("parameters", *(side.parameters for side in sides)),
        ("MACs", *(side.macs for side in sides)),
        ("bytes", *(side.file_bytes or "" for side in sides)),
    ]
    if found.first.latency:
        where = (
            "" if found.first.latency.runtime == "torch" else f" in {found.first.latency.runtime}"
        )
        rows += [(f"latency{where}, ms", *(_latency(side) for side in sides))]
    if found.first.evaluation:
        rows += [(f"{found.first.evaluation.score_name}, %", *map(_score, sides))]
    columns = [("", "left"), *((name, "right") for name in short_names(found))]
    yield show.table("comparison", columns, rows)
    gap = found.difference
    yield (
        f"outputs on {gap.n_inputs:,} inputs: relative difference {gap.relative_mean:.3g} in the "
        f"mean, {gap.relative_max:.3g} at most"
    )
    if found.first.evaluation is None or found.first.evaluation.score_name == "top-1":
        yield f"same class for {gap.agreement:.1%}"


def _latency(side: Side) -> str:
    """Give the median and the quartiles."""
    assert side.latency is not None
    found = side.latency
    return f"{found.median_ms:.2f} ({found.low_ms:.2f} to {found.high_ms:.2f})"


def _score(side: Side) -> str:
    """Give the accuracy and its 95 % interval, or another score."""
    from filtersurgeon.learn.evaluation import Evaluation

    measured = side.evaluation
    assert measured is not None
    if not isinstance(measured, Evaluation):
        return f"{100 * measured.score:.2f}"
    low, high = measured.interval()
    return f"{100 * measured.accuracy:.2f} ({100 * low:.2f} to {100 * high:.2f})"
