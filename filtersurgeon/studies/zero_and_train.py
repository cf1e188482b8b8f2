"""How few spatial kernels does training need? Zero most of them, freeze the rest, and train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.plots.curves import draw_curves
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

CHOSEN = ("learned", "fixed", "zero", "fillzero", "cut", "cut-fillzero")
_SHARES = {"zeroed": "80,85,90,95,99"}
PRESETS = {name: {**preset, **_SHARES} for name, preset in SHARED.items()}


@with_plan
def zero_and_train(
    lab: Lab,
    *,
    zeroed: str = "50,90",
    ways: str = ",".join(CHOSEN),
    starts: str = ",".join(STARTS),
    plan: Plan,
) -> StudyResult:
    """Zero the least important spatial kernels, freeze the rest, and train all other weights.

    ``learned`` is the baseline: no kernel is zeroed, and everything trains. ``fixed`` freezes the
    spatial filters as they are. ``zero`` zeroes a share of all spatial kernels before that, and
    ``fillzero`` fills the zeroed kernels with noise. ``cut`` removes the channels that have no
    kernel left in a layer (ChannelPrune), and ``cut-fillzero`` fills what was zeroed in the
    others. Runs of one repeat share the random seed: the order of images, the initialisation and
    the images that kernels are scored on. ``-p preset=paper`` sets the authors' values, with 15
    minibatches of 4 for the saliency, and ``preset=paper-50`` with 50; parameters that are stated
    as well hold.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, sections 4.5.1
    and 4.5.2, Appendix K and Fig. K.1.

    Args:
        lab: the network and the images to evaluate on.
        zeroed: percentages of all spatial kernels; the paper has 80 to 99.
        ways: which of the rows above.
        starts: ``pretrained`` begins with the network's weights (Fig. K.1b), ``scratch`` as the
            architecture initialises them (Fig. K.1a).
        plan: shared.

    Returns:
        Top-1 accuracy after the last epoch by start, way and share, and its difference from
        ``learned``, paired by seed, with Student's 95 % intervals over the repeats; the accuracy
        before training, and the share of parameters that is left. A run that diverged counts
        nowhere.
    """
    shares = percentages(zeroed, "zeroed")
    chosen, begun = words(ways, CHOSEN, "ways"), words(starts, STARTS, "starts")
    runs = [
        (start, way, share)
        for start in begun
        for way in chosen
        for share in ([0.0] if WAYS[way].handling == "none" else shares)
    ]
    rows = plan.run(lab, runs)
    given = {"zeroed": zeroed, "ways": ways, "starts": starts, **plan.told()}
    return StudyResult(
        "zero-and-train",
        changed_options("zero-and-train", given),
        {"rows": rows_as_json(rows)},
        [_table(rows)],
        make_remarks(rows, given),
        lambda figure: _draw(figure, rows, plan.epochs),
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    names = ("zeroed", "parameters left", "before training", "top-1 %", "minus learned")
    columns = [("start", "left"), ("way", "left"), *((name, "right") for name in names)]
    cells = [
        (
            row["start"],
            row["way"],
            f"{100 * row['zeroed']:g} %",
            f"{100 * row['left']:.1f} %",
            "" if row["before"] is None else str(row["before"]),
            str(row["accuracy"] or "diverged"),
            show_difference(row["difference"]),
        )
        for row in rows
    ]
    return Table("spatial kernels zeroed, then frozen and trained", columns, cells)


def _draw(figure: Figure, rows: Sequence[Mapping[str, Any]], epochs: int) -> None:
    starts = list(dict.fromkeys(row["start"] for row in rows))
    figure.set_size_inches(5.5 * len(starts), 4.2)
    parts = figure.subfigures(1, len(starts), squeeze=False).ravel()
    for part, start in zip(parts, starts, strict=True):
        part.suptitle(start, fontsize=10)
        lines = {}
        for row in rows:
            finished = [run for run in row["runs"] if run is not None]
            if row["start"] == start and finished:
                at = f" {100 * row['zeroed']:g} %" if row["zeroed"] else ""
                lines[row["way"] + at] = [
                    student_interval([run[epoch] for run in finished]) for epoch in range(epochs)
                ]
        if lines:
            draw_curves(part, list(range(1, 1 + epochs)), lines, "epochs of training")
