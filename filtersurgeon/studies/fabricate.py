"""Are fabricated filters a good start? Fine-tune from random, original and fabricated ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluation import Estimate, student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.plots.curves import draw_curves
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    network_plan,
    open_for_worker,
    training_plan,
    words,
)
from filtersurgeon.transforms.fabricate import fabricate as fabricate_filters

STARTS = ("random", "original", "fabricated", "norm-matched")


def fabricate(
    lab: Lab,
    *,
    train: str = "",
    train_subset: int = 0,
    starts: str = "random,original,fabricated",
    epochs: int = 3,
    lr: float = 1e-4,
    repeats: int = 3,
    archetypes: float = 0.25,
    draw: str = "uniform",
) -> StudyResult:
    """Fine-tune a network from several starts on the same images and compare.

    Training is the paper's: Adam at a fixed learning rate, batches of ``--batch-size``. Every
    repeat draws other filters, another order of images, and another part of them where only a
    part is used. Only the filters of the layers are fabricated; biases, normalisations and
    classifier are the original's. For images of other classes every start gets a new head.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, section 7.2 and Table 2.

    Args:
        lab: the network and the images to check on. To begin at random, its architecture must
            take a number of classes, as timm's and torchvision's do.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.
        starts: ``random`` (as the architecture initialises itself), ``original``,
            ``fabricated``, ``norm-matched`` (fabricated, with the original's norms).
        epochs: passes over the training images; the paper has 50.
        lr: learning rate.
        repeats: at least 1; the paper has 10.
        archetypes: their number as a share of a layer's filters.
        draw: ``uniform`` or ``dirichlet``, as in ``fabricate``.

    Returns:
        Mean top-1 accuracy after every epoch, with Student's 95 % interval over the repeats.
    """
    chosen = words(starts, STARTS, "starts")
    if repeats < 1 or epochs < 1:
        raise OptionError("repeats and epochs should be at least 1")
    options = {"archetypes": archetypes, "draw": draw}
    shared = {**network_plan(lab), **training_plan(lab, train, train_subset, epochs, lr)}
    jobs = {
        (start, repeat): {
            **shared,
            "start": start,
            "options": options if start in ("fabricated", "norm-matched") else {},
            "seed": lab.seed + repeat,
        }
        for repeat in range(repeats)
        for start in chosen
    }
    found = run_jobs(train_and_evaluate, list(jobs.values()), lab.jobs, lab.progress)
    histories = {key: result["accuracy"] for key, result in zip(jobs, found, strict=True)}
    curves = {
        start: [
            student_interval([histories[start, repeat][epoch] for repeat in range(repeats)])
            for epoch in range(epochs)
        ]
        for start in chosen
    }
    given = {"train_subset": train_subset, "starts": starts, "epochs": epochs, "lr": lr,
             "repeats": repeats, "archetypes": archetypes, "draw": draw}  # fmt: skip
    return _result(given, curves)


def train_and_evaluate(
    network: Mapping[str, Any],
    start: str,
    options: Mapping[str, Any],
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
    classes: int | None,
    seed: int,
) -> dict[str, Any]:
    """Fine-tune a network from one start; runs in a worker.

    Returns:
        The top-1 accuracy on the test images after every epoch.
    """
    with open_for_worker(network) as checkpoint:
        begun: Checkpoint = checkpoint
        if options:
            begun = fabricate_filters(
                checkpoint,
                **options,
                norm_match=start == "norm-matched",
                seed=seed,
                layers=network["layers"],
            )
        images = TrainingImages(DataSpec(**{**train, "seed": seed}), DataSpec(**test))
        settings = RunSettings(**{**run, "seed": seed})
        begin = TrainingStart(start == "random", classes, network["preprocess"])
        _, result = tune(begun, images, TrainingRecipe(**recipe), settings, start=begin)
    return {"accuracy": [row.accuracy for row in result.history]}


def _result(given: Mapping[str, Any], curves: Mapping[str, Sequence[Estimate]]) -> StudyResult:
    defaults = STUDIES.options("fabricate")
    epochs = range(1, 1 + int(given["epochs"]))
    columns = [("top-1 %, start", "left"), *((f"epoch {k}", "right") for k in epochs)]
    rows = [(start, *map(str, line)) for start, line in curves.items()]
    return StudyResult(
        "fabricate",
        {k: v for k, v in given.items() if v != defaults[k].default},
        {"accuracy": {k: [point._asdict() for point in line] for k, line in curves.items()}},
        [Table("fine-tuned from several starts", columns, rows)],
        draw=lambda figure: draw_curves(figure, list(epochs), curves, "epochs of fine-tuning"),
    )
