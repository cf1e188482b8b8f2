"""How accurate are networks with frozen spatial filters? Train from several initialisations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import DivergedError, OptionError
from filtersurgeon.learn.evaluation import Estimate, student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.plots.curves import draw_curves
from filtersurgeon.studies._fixed import STARTS, with_batches
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    changed_options,
    make_untrained,
    network_plan,
    open_for_worker,
    training_plan,
    words,
)
from filtersurgeon.transforms.initialize import initialize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEARNED = "learned"
METHODS = (LEARNED, "ones", "dct2", "unchanged", "ghaar", "psine", "guided-steer")
PRESETS = {"paper": {"epochs": 40, "lr": 1e-4, "batch_size": 4, "repeats": 6}}
"""Section 4.1 and Appendix C, for the chest X-rays."""
Key = tuple[str, str, int]  # start, method, repeat


def fixed_filters(
    lab: Lab,
    *,
    train: str = "",
    train_subset: int = 0,
    methods: str = ",".join(METHODS),
    starts: str = ",".join(STARTS),
    epochs: int = 3,
    lr: float = 1e-3,
    batch_size: int = 0,
    repeats: int = 3,
    match_scale: bool = False,
    preset: str = "",
) -> StudyResult:
    """Train a network whose spatial filters are fixed at their initialisation.

    Every method gives the spatial filters their values; they are then frozen while all other
    weights train. ``learned`` is the baseline: nothing is changed, and everything learns. Runs of
    one repeat share the order of images and the weights that are not spatial; methods are compared
    by Wilcoxon's signed-rank test, paired over starts and repeats, two-tailed. ``-p preset=paper``
    sets the authors' values.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 4.1
    and Fig. 10.

    Args:
        lab: the network and the images to check on.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.
        methods: ``learned``, ``ones``, ``dct2``, ``unchanged``, ``ghaar``, ``psine`` and
            ``guided-steer``, which is guided by the network itself.
        starts: ``pretrained`` keeps the weights that are not spatial, ``scratch`` makes them, and
            the filters of ``unchanged`` and ``learned``, as the architecture initialises them.
        epochs: passes over the training images; the paper has 40.
        lr: learning rate of Adam; the paper has 1e-4.
        batch_size: images per step; the paper has 4; 0 takes ``--batch-size``.
        repeats: at least 1; the paper has 6 models per method.
        match_scale: scale the filters of each layer to the size of those that they replace, which
            networks without normalisation need.
        preset: ``paper``.

    Returns:
        Top-1 accuracy after the last epoch by start and method, with Student's 95 % interval over
        the repeats, and p-values. A run that diverged counts in neither.
    """
    chosen, begun = words(methods, METHODS, "methods"), words(starts, STARTS, "starts")
    if repeats < 1 or epochs < 1:
        raise OptionError("repeats and epochs should be at least 1")
    lab = with_batches(lab, batch_size)
    shared = {**network_plan(lab), **training_plan(lab, train, train_subset, epochs, lr)}
    jobs = {
        (start, method, repeat): {
            **shared,
            "start": start,
            "method": method,
            "match_scale": match_scale and method not in (LEARNED, "unchanged"),
            "seed": lab.seed + repeat,
        }
        for start in begun
        for method in chosen
        for repeat in range(repeats)
    }
    results = run_jobs(train_fixed, list(jobs.values()), lab.jobs, lab.progress)
    found = {key: result["accuracy"] for key, result in zip(jobs, results, strict=True)}
    given = {
        "train_subset": train_subset, "methods": methods, "starts": starts, "epochs": epochs,
        "lr": lr, "batch_size": batch_size, "repeats": repeats, "match_scale": match_scale,
        "preset": preset,
    }  # fmt: skip
    return _result(given, begun, chosen, found)


def train_fixed(
    network: Mapping[str, Any],
    start: str,
    method: str,
    match_scale: bool,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
    classes: int | None,
    seed: int,
) -> dict[str, Any]:
    """Initialise, train and evaluate one network; runs in a worker.

    Returns:
        The top-1 accuracy on the test images after every epoch, or None if training diverged.
    """
    freeze = "none" if method == LEARNED else "spatial"
    with open_for_worker(network) as checkpoint:
        begun = checkpoint if start == "pretrained" else make_untrained(checkpoint, seed)
        if method != LEARNED:
            guide = checkpoint if method == "guided-steer" else None
            begun = initialize(
                begun, method=method, guide=guide, match_scale=match_scale, seed=seed,
                layers=network["layers"],
            )  # fmt: skip
        images = TrainingImages(DataSpec(**{**train, "seed": seed}), DataSpec(**test))
        settings = RunSettings(**{**run, "seed": seed})
        learning = TrainingRecipe(**{**recipe, "freeze": freeze})
        try:
            _, result = tune(
                begun,
                images,
                learning,
                settings,
                start=TrainingStart(False, classes, network["preprocess"]),
            )
        except DivergedError:
            return {"accuracy": None}
    return {"accuracy": [row.accuracy for row in result.history]}


def _result(
    given: Mapping[str, Any],
    starts: Sequence[str],
    methods: Sequence[str],
    found: Mapping[Key, Sequence[float] | None],
) -> StudyResult:
    repeats, epochs = range(int(given["repeats"])), range(int(given["epochs"]))

    def estimate(start: str, method: str, epoch: int) -> Estimate | None:
        runs = [found[start, method, repeat] for repeat in repeats]
        finished = [run[epoch] for run in runs if run is not None]
        return student_interval(finished) if finished else None

    last = {s: {m: estimate(s, m, epochs[-1]) for m in methods} for s in starts}
    pvalues = {pair: p_value(found, *pair) for pair in combinations(methods, 2)}
    curves = {
        start: {
            method: line
            for method in methods
            if None not in (line := [estimate(start, method, epoch) for epoch in epochs])
        }
        for start in starts
    }
    findings = {
        "accuracy": {s: {m: x and x._asdict() for m, x in row.items()} for s, row in last.items()},
        "runs": [
            {"start": key[0], "method": key[1], "repeat": key[2], "accuracy": run}
            for key, run in found.items()
        ],
        "p_values": [{"first": a, "second": b, "p": p} for (a, b), p in pvalues.items()],
    }
    return StudyResult(
        "fixed-filters",
        changed_options("fixed-filters", given),
        findings,
        [_accuracies(last, methods), _significance(pvalues, methods)],
        _remarks(pvalues, found),
        lambda figure: _draw(figure, curves),
    )


def _draw(figure: Figure, curves: Mapping[str, Mapping[str, Sequence[Any]]]) -> None:
    figure.set_size_inches(5.5 * len(curves), 4.2)
    parts = figure.subfigures(1, len(curves), squeeze=False).ravel()
    for part, (start, lines) in zip(parts, curves.items(), strict=True):
        part.suptitle(start, fontsize=10)
        if lines:
            epochs = range(1, 1 + max(len(line) for line in lines.values()))
            draw_curves(part, list(epochs), lines, "epochs of training")


def p_value(found: Mapping[Key, Sequence[float] | None], first: str, second: str) -> float | None:
    """Give Wilcoxon's two-tailed p-value of two methods' last accuracies, paired by start and seed.

    None where no pair has finished; 1 where all pairs are equal.
    """
    from scipy.stats import wilcoxon

    pairs = [
        (run[-1], other[-1])
        for (start, method, repeat), run in found.items()
        if method == first
        and run is not None
        and (other := found[start, second, repeat]) is not None
    ]
    if not pairs:
        return None
    differences = [a - b for a, b in pairs]
    return float(wilcoxon(differences).pvalue) if any(differences) else 1.0


def _accuracies(last: Mapping[str, Mapping[str, Estimate | None]], methods: Sequence[str]) -> Table:
    columns = [("top-1 %", "left"), *((start, "right") for start in last)]
    rows = [
        (method, *(str(row[method] or "diverged") for row in last.values())) for method in methods
    ]
    return Table("spatial filters fixed, all other weights learned", columns, rows)


def _significance(pvalues: Mapping[tuple[str, str], float | None], methods: Sequence[str]) -> Table:
    columns = [("p, two-tailed", "left"), *((method, "right") for method in methods[1:])]

    def cell(row: str, column: str) -> str:
        p = pvalues.get((row, column))
        return "" if p is None else f"{p:.3f}"

    rows = [(row, *(cell(row, column) for column in methods[1:])) for row in methods[:-1]]
    return Table("Wilcoxon's signed-rank test", columns, rows)


def _remarks(
    pvalues: Mapping[tuple[str, str], float | None],
    found: Mapping[Key, Sequence[float] | None],
) -> list[str]:
    pairs = len({(start, repeat) for start, _, repeat in found})
    smallest = 2.0 ** (1 - pairs)
    remarks = [f"{pairs} pairs per test: no p-value can be below {smallest:.3g}"]
    diverged = [key for key, run in found.items() if run is None]
    if diverged:
        named = ", ".join(sorted({f"{method} ({start})" for start, method, _ in diverged}))
        remarks.append(f"{len(diverged)} runs diverged and are left out: {named}")
    significant = [pair for pair, p in pvalues.items() if p is not None and p < 0.05]
    if significant:
        named = ", ".join(f"{a} and {b}" for a, b in significant)
        remarks.append(f"different at the 5 % level: {named}")
    return remarks
