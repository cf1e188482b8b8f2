"""Which ranking prunes best? Remove half or more of every layer, fine-tune, and evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.evaluating import evaluate
from filtersurgeon.learn.evaluation import Estimate, student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.plots.curves import draw_curves
from filtersurgeon.ranking.method import methods_of_weights
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    learning_plan,
    network_words,
    open_for_worker,
    percentages,
    training_images,
    words,
)
from filtersurgeon.transforms.prune import prune

DRAWN = "random"
"""The ranking that differs between repeats."""
WHOLE = ""
"""Stands for the network as it is, not cut."""


def prune_ranking(
    lab: Lab,
    *,
    removed: str = "50,75",
    methods: str = "archetype,geometric-median,distance-sum,l1,l2,random",
    epochs: int = 3,
    lr: float = 1e-4,
    repeats: int = 3,
    train: str = "",
    train_subset: int = 2000,
) -> StudyResult:
    """Cut a share of every layer's filters by each ranking, train the rest, and compare.

    Training is the paper's: Adam at a fixed learning rate, batches of ``--batch-size``. Every
    repeat trains on another part of the images, in another order; rankings are compared on the
    same ones. Filters are removed, and every dependent layer is updated; where a residual
    stream joins several layers, their mean rank decides.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, section 7.3 and Table 3.

    Args:
        lab: the network and the images to evaluate on.
        removed: percentages of each layer's filters.
        methods: ranking methods that look at no images.
        epochs: passes over the training images; the paper has 50; 0 does not train.
        lr: learning rate.
        repeats: at least 1; the paper has 10.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.

    Returns:
        Top-1 accuracy of the network as it is, and the mean right after the cut and after training,
        for each ranking and percentage, with Student's 95 % interval over the repeats.
    """
    shares = percentages(removed, "removed")
    chosen = words(methods, methods_of_weights(), "methods")
    if repeats < 1 or epochs < 0:
        raise OptionError("repeats should be at least 1, and epochs at least 0")
    shared = {**network_words(lab), **learning_plan(lab, epochs, lr)}
    learnt = training_images(lab, train, train_subset)
    cells = [(WHOLE, 0.0, 0)] + [
        (method, share, repeat)
        for repeat in range(repeats)
        for method in chosen
        for share in shares
    ]
    jobs = {
        (method, share, repeat): {
            **shared,
            "train": {**learnt, "seed": lab.seed + repeat},
            "method": method,
            "sparsity": share,
            "ranking_seed": lab.seed + repeat if method == DRAWN else lab.seed,
        }
        for method, share, repeat in cells
    }
    results = run_jobs(prune_and_train, list(jobs.values()), lab.jobs, lab.progress)
    found = dict(zip(jobs, results, strict=True))
    given = {"removed": removed, "methods": methods, "epochs": epochs, "lr": lr,
             "repeats": repeats, "train_subset": train_subset}  # fmt: skip

    def line(method: str, which: str) -> list[Estimate]:
        return [
            student_interval([found[method, share, run][which] for run in range(repeats)])
            for share in shares
        ]

    before, after = ({m: line(m, which) for m in chosen} for which in ("before", "after"))
    return _result(given, shares, found[WHOLE, 0.0, 0]["before"], before, after)


def prune_and_train(
    network: Mapping[str, Any],
    test: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    seed: int,  # noqa: ARG001 - each job has its own
    train: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
    method: str,
    sparsity: float,
    ranking_seed: int,
) -> dict[str, Any]:
    """Prune by a ranking, evaluate, train and evaluate again; runs in a worker.

    Returns:
        The top-1 accuracy before and after training; the same twice where nothing is trained, as
        the network that is not cut.
    """
    settings, images = EvaluationSettings(**evaluation), DataSpec(**test)
    with open_for_worker(network) as checkpoint:
        pruned = checkpoint
        if method != WHOLE:
            pruned = prune(
                checkpoint, sparsity=sparsity, per_layer=True, method=method,
                layers=network["layers"] or None, seed=ranking_seed, verify=False,
            )  # fmt: skip
        before = evaluate(pruned, images, settings, preprocess=network["preprocess"]).accuracy
        if method == WHOLE or not run["epochs"]:
            return {"before": before, "after": before}
        own = RunSettings(**{**run, "seed": train["seed"]})
        learnt, _ = tune(
            pruned, TrainingImages(DataSpec(**train)), TrainingRecipe(**recipe), own,
            start=TrainingStart(preprocess=network["preprocess"]),
        )  # fmt: skip
        after = evaluate(learnt, images, settings, preprocess=network["preprocess"]).accuracy
    return {"before": before, "after": after}


def _result(
    given: Mapping[str, Any],
    shares: Sequence[float],
    whole: float,
    before: Mapping[str, Sequence[Estimate]],
    after: Mapping[str, Sequence[Estimate]],
) -> StudyResult:
    columns = [("top-1 %", "left")]
    for share in shares:
        columns += [(f"{100 * share:g} % cut", "right"), ("trained", "right")]
    rows = [
        (method, *(str(x) for pair in zip(before[method], line, strict=True) for x in pair))
        for method, line in after.items()
    ]
    defaults = STUDIES.options("prune-ranking")
    places = [100 * share for share in shares]
    return StudyResult(
        "prune-ranking",
        {k: v for k, v in given.items() if v != defaults[k].default},
        {
            "removed": list(shares),
            "original": whole,
            "before": {k: [point._asdict() for point in line] for k, line in before.items()},
            "after": {k: [point._asdict() for point in line] for k, line in after.items()},
        },
        [Table("cut by a ranking, and trained again", columns, rows)],
        [f"original: {100 * whole:.2f} % before any cut"],
        draw=lambda figure: draw_curves(figure, places, after, "filters cut from every layer (%)"),
    )
