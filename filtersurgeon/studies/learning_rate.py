"""Do frozen spatial filters bear larger learning rates? Train at several rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluation import Estimate, student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.plots.curves import draw_curves
from filtersurgeon.studies._fixed import (
    STARTS,
    compare_with_learned,
    rows_as_json,
    show_difference,
    with_batches,
)
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    changed_options,
    network_plan,
    training_plan,
    words,
)
from filtersurgeon.studies.fixed_filters import LEARNED, METHODS, train_fixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PRESETS = {"paper": {"rates": "0.008,0.02", "epochs": 300, "batch_size": 10, "repeats": 6,
                     "methods": ",".join(METHODS)}}  # fmt: skip
"""Appendix C and E, for the microscopy images."""

Key = tuple[float, str, int]  # rate, method, repeat


def learning_rate(
    lab: Lab,
    *,
    rates: str = "0.001,0.01",
    methods: str = "learned,dct2,unchanged,ghaar,psine",
    start: str = "scratch",
    train: str = "",
    train_subset: int = 0,
    epochs: int = 3,
    batch_size: int = 0,
    repeats: int = 3,
    match_scale: bool = False,
    preset: str = "",
) -> StudyResult:
    """Train a network with fixed spatial filters at several learning rates, beside the learned one.

    As in ``fixed-filters``, every method gives the spatial filters their values, which are frozen
    while all other weights train; ``learned`` changes and freezes nothing. Runs of one repeat share
    the order of images and the weights that are not spatial, at all rates. ``-p preset=paper``
    sets the authors' values.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 4.3,
    Appendix E and Fig. E.1.

    Args:
        lab: the network and the images to check on.
        rates: learning rates of Adam; the paper has 0.008 and 0.02.
        methods: ``learned``, ``ones``, ``dct2``, ``unchanged``, ``ghaar``, ``psine`` and
            ``guided-steer``, which is guided by the network itself.
        start: ``scratch`` makes the weights as the architecture initialises them; ``pretrained``
            keeps those that are not spatial.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.
        epochs: passes over the training images; the paper has 300.
        batch_size: images per step; the paper has 10; 0 takes ``--batch-size``.
        repeats: random seeds; the paper has 6.
        match_scale: scale the filters of each layer to the size of those that they replace.
        preset: ``paper``.

    Returns:
        Top-1 accuracy after the first and the last epoch by rate and method, and the difference
        from ``learned`` at the same rate, paired by seed, with Student's 95 % intervals over the
        repeats. A run that diverged counts nowhere.
    """
    speeds, chosen = _read_rates(rates), words(methods, METHODS, "methods")
    (begun,) = words(start, STARTS, "start")[:1]
    if repeats < 1 or epochs < 1:
        raise OptionError("repeats and epochs should be at least 1")
    lab = with_batches(lab, batch_size)
    shared = {**network_plan(lab), **training_plan(lab, train, train_subset, epochs, 1.0)}
    recipe = shared.pop("recipe")
    jobs = {
        (rate, method, repeat): {
            **shared,
            "recipe": {**recipe, "lr": rate},
            "start": begun,
            "method": method,
            "match_scale": match_scale and method not in (LEARNED, "unchanged"),
            "seed": lab.seed + repeat,
        }
        for rate in speeds
        for method in chosen
        for repeat in range(repeats)
    }
    results = run_jobs(train_fixed, list(jobs.values()), lab.jobs, lab.progress)
    found = {key: result["accuracy"] for key, result in zip(jobs, results, strict=True)}
    given = {
        "rates": rates, "methods": methods, "start": start, "train_subset": train_subset,
        "epochs": epochs, "batch_size": batch_size, "repeats": repeats, "match_scale": match_scale,
        "preset": preset,
    }  # fmt: skip
    rows = [_row(found, rate, method, repeats) for rate in speeds for method in chosen]
    return StudyResult(
        "learning-rate",
        changed_options("learning-rate", given),
        {"rows": rows_as_json(rows)},
        [_table(rows)],
        compare_with_learned(rows, lambda row: f"{row['method']} at {row['rate']:g}"),
        lambda figure: _draw(figure, rows, epochs),
    )


def _read_rates(text: str) -> list[float]:
    try:
        found = sorted({float(word) for word in text.split(",")})
    except ValueError:
        found = []
    if not found or not found[0] > 0:
        raise OptionError(f"rates={text} should be positive numbers, such as 0.001,0.01")
    return found


def _row(
    found: Mapping[Key, Sequence[float] | None], rate: float, method: str, repeats: int
) -> dict[str, Any]:
    runs = [found[rate, method, repeat] for repeat in range(repeats)]
    base = [found.get((rate, LEARNED, repeat)) for repeat in range(repeats)]
    finished = [run for run in runs if run]

    def gap(epoch: int) -> Estimate | None:
        pairs = [a[epoch] - b[epoch] for a, b in zip(runs, base, strict=True) if a and b]
        return student_interval(pairs) if pairs and method != LEARNED else None

    return {
        "rate": rate,
        "method": method,
        "first": student_interval([run[0] for run in finished]) if finished else None,
        "accuracy": student_interval([run[-1] for run in finished]) if finished else None,
        "first_difference": gap(0),
        "difference": gap(-1),
        "runs": runs,
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = [("learning rate", "right"), ("filters", "left"), *((name, "right") for name in
               ("after 1 epoch", "minus learned", "top-1 %", "minus learned "))]  # fmt: skip
    cells = [
        (
            f"{row['rate']:g}",
            row["method"],
            str(row["first"] or "diverged"),
            show_difference(row["first_difference"]),
            str(row["accuracy"] or "diverged"),
            show_difference(row["difference"]),
        )
        for row in rows
    ]
    return Table("spatial filters fixed, all other weights learned", columns, cells)


def _draw(figure: Figure, rows: Sequence[Mapping[str, Any]], epochs: int) -> None:
    rates = list(dict.fromkeys(row["rate"] for row in rows))
    figure.set_size_inches(5.5 * len(rates), 4.2)
    parts = figure.subfigures(1, len(rates), squeeze=False).ravel()
    for part, rate in zip(parts, rates, strict=True):
        part.suptitle(f"learning rate {rate:g}", fontsize=10)
        lines = {
            row["method"]: [student_interval([run[epoch] for run in runs])
                            for epoch in range(epochs)]
            for row in rows
            if row["rate"] == rate and (runs := [run for run in row["runs"] if run])
        }  # fmt: skip
        if lines:
            draw_curves(part, list(range(1, 1 + epochs)), lines, "epochs of training")
