"""How accurate are pruned networks with frozen spatial filters? Prune, freeze and train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from filtersurgeon.studies._fixed import PRESETS as SHARED
from filtersurgeon.studies._fixed import (
    STARTS,
    WAYS,
    Plan,
    make_remarks,
    rows_as_json,
    show_difference,
    with_plan,
)
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    changed_options,
    percentages,
    words,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILLS = ("fillzero", "zero")
_SHARES = {"zeroed": "80,90,99,99.9"}
PRESETS = {name: {**preset, **_SHARES} for name, preset in SHARED.items()}

Run = tuple[str, str, float]  # start, way, share of kernels zeroed


@with_plan
def prune_and_fix(
    lab: Lab,
    *,
    zeroed: str = "50,80,90",
    fill: str = "fillzero",
    start: str = "pretrained",
    plan: Plan,
) -> StudyResult:
    """Prune a network at several shares and train it, with frozen spatial filters and without.

    ``learned`` is the baseline: nothing is pruned, and everything trains; ``fixed`` freezes the
    spatial filters of the whole network. At each share ChannelPrune prunes the network, which then
    trains with frozen spatial filters (the paper's ExplainFix models) and without. Runs of one
    repeat share the random seed. ``-p preset=paper`` sets the authors' values, with 15 minibatches
    of 4 for the saliency, and ``preset=paper-50`` with 50; parameters that are stated as well hold.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Appendix L,
    Fig. L.1b and Table M.1.

    Args:
        lab: the network and the images to evaluate on.
        zeroed: percentages of all spatial kernels; the paper has 80, 90, 99 and 99.9.
        fill: what zeroed kernels that are not removed become: ``fillzero``, or ``zero``.
        start: ``pretrained`` begins with the network's weights, ``scratch`` as the architecture
            initialises them.
        plan: shared.

    Returns:
        Per share of kernels zeroed the share of parameters pruned (Table M.1), and top-1 accuracy
        after the last epoch with frozen and with trained spatial filters, with Student's 95 %
        interval over the repeats; differences from the baseline are paired by seed. A run that
        diverged counts nowhere.
    """
    shares = percentages(zeroed, "zeroed")
    (begun,) = words(start, STARTS, "start")[:1]
    (filled,) = words(fill, FILLS, "fill")[:1]
    fixed, free = ("cut-fillzero", "cut-fillzero-learned")
    if filled == "zero":
        fixed, free = ("cut", "cut-learned")
    runs: list[Run] = [(begun, "learned", 0.0), (begun, "fixed", 0.0)]
    runs += [(begun, way, share) for share in shares for way in (fixed, free)]
    rows = plan.run(lab, runs)
    given = {"zeroed": zeroed, "fill": fill, "start": start, **plan.told()}
    return StudyResult(
        "prune-and-fix",
        changed_options("prune-and-fix", given),
        {"rows": rows_as_json(rows)},
        [_table(rows)],
        make_remarks(rows, given),
        lambda figure: _draw(figure, rows),
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = [("spatial filters", "left"), *((name, "right") for name in
               ("kernels zeroed", "parameters pruned", "top-1 %", "minus learned"))]  # fmt: skip
    cells = [
        (
            "frozen" if WAYS[row["way"]].frozen else "learned",
            f"{100 * row['zeroed']:g} %",
            f"{1 - row['left']:.3f}",
            str(row["accuracy"] or "diverged"),
            show_difference(row["difference"]),
        )
        for row in rows
    ]
    return Table("pruned by ChannelPrune and trained", columns, cells)


def _draw(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw accuracy against the share of parameters pruned, as Fig. L.1b."""
    axes = figure.subplots()
    for number, frozen in enumerate((True, False)):
        line = [x for x in rows if WAYS[x["way"]].frozen is frozen and x["accuracy"] is not None]
        # Side by side, so that no bar hides another.
        places = [100 * (1 - row["left"]) + 0.6 * number for row in line]
        points = [row["accuracy"] for row in line]
        spread = [
            [100 * (point.mean - point.low) for point in points],
            [100 * (point.high - point.mean) for point in points],
        ]
        axes.errorbar(
            places, [100 * point.mean for point in points], yerr=spread,
            label="frozen" if frozen else "learned", marker="o", markersize=4, linewidth=1.2,
            elinewidth=0.9, capsize=2.5,
        )  # fmt: skip
    axes.set(xlabel="parameters pruned (%)", ylabel="top-1 (%), 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, title="spatial filters")
