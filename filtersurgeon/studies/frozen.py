"""Measure how much accuracy training recovers with eight frozen kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from filtersurgeon.banks import load_bank
from filtersurgeon.data.data import DataSpec
from filtersurgeon.data.preprocess import Augmentation
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.evaluating import evaluate
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
    make_untrained,
    network_plan,
    open_for_worker,
    training_plan,
    words,
)
from filtersurgeon.transforms.initialize import initialize
from filtersurgeon.transforms.replace import replace as replace_kernels

WAYS = ("tuned", "scratch", "transferred", "closest", "bank", "random")
RECIPES = ("adam", "convnext")


def frozen(
    lab: Lab,
    *,
    bank: str = "dog8",
    ways: str = ",".join(WAYS),
    train: str = "",
    train_subset: int = 0,
    epochs: int = 3,
    lr: float = 1e-3,
    recipe: str = "adam",
    accumulate: int = 1,
    repeats: int = 3,
) -> StudyResult:
    """Train a network with frozen depthwise kernels and one trainable offset for each.

    ``tuned`` replaces the kernels from the bank and fine-tunes (Table 2). The others begin anew,
    all parameters as the architecture initialises them but for what is named: ``scratch`` nothing
    is frozen (the baseline), ``transferred`` freezes the network's own kernels (Table 4),
    ``closest`` freezes their replacements from the bank (Table 1), ``bank`` freezes members of the
    bank that are drawn without regard to the trained kernels, at the scale of the architecture's
    initialisation (Table 4), and ``random`` freezes the architecture's own random kernels, which
    shows what freezing alone does. Batches are of ``--batch-size``; every repeat draws other
    training images, if ``train_subset`` leaves a choice, another order and another initialisation.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, Tables 1, 2
    and 4.

    Args:
        lab: the network, with depthwise kernels, and the images to check on.
        bank: a built-in bank's name or a bank file.
        ways: which rows.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.
        epochs: passes over the training images; the paper has 300.
        lr: learning rate; ConvNeXt's paper has 4e-3 for 4,096 images per update.
        recipe: ``adam`` at a fixed learning rate; or ``convnext``, that of ConvNeXt's paper: AdamW,
            the learning rate growing for a fifteenth of the epochs and then falling as a cosine,
            label smoothing, RandAugment, erasing, mixup, CutMix and averaged weights. Stochastic
            depth is the architecture's, as in ``--arch 'timm:convnext_tiny(drop_path_rate=0.1)'``.
        accumulate: batches per update of the weights.
        repeats: at least 1.

    Returns:
        Top-1 accuracy of the network as it is and with its kernels replaced (not where the images
        have other classes, for which all ways begin with a new head), and the mean after every
        epoch of each way, with Student's 95 % interval over the repeats.
    """
    chosen = words(ways, WAYS, "ways")
    if repeats < 1 or epochs < 1 or accumulate < 1:
        raise OptionError("repeats, epochs and accumulate should be at least 1")
    resources = load_bank(bank).resources
    shared = {**network_plan(lab), **training_plan(lab, train, train_subset, epochs, lr),
              "augmentation": None, "bank": bank, "bank_digest": dict(resources)}  # fmt: skip
    if words(recipe, RECIPES, "recipe") == ["convnext"]:
        shared.update(convnext_recipe(lr, epochs))
    shared["run"] = {**shared["run"], "accumulate": accumulate}
    # A new head answers nothing before it is trained.
    untrained = ("original", "replaced") if shared["classes"] is None else ()
    jobs = {
        (way, repeat): {**shared, "way": way, "seed": lab.seed + repeat}
        for repeat in range(repeats)
        for way in (*(untrained if repeat == 0 else ()), *chosen)
    }
    found = run_jobs(train_one_way, list(jobs.values()), lab.jobs, lab.progress)
    histories = {key: result["accuracy"] for key, result in zip(jobs, found, strict=True)}
    curves = {
        way: [
            student_interval([histories[way, repeat][epoch] for repeat in range(repeats)])
            for epoch in range(epochs)
        ]
        for way in chosen
    }
    given = {"bank": bank, "ways": ways, "train_subset": train_subset, "epochs": epochs, "lr": lr,
             "recipe": recipe, "accumulate": accumulate, "repeats": repeats}  # fmt: skip
    before = {way: histories[way, 0][0] for way in untrained}
    return _result(given, before, curves)


def convnext_recipe(lr: float, epochs: int) -> dict[str, Any]:
    """Give the training recipe and the augmentation of ConvNeXt's paper.

    Source: Liu et al., *A ConvNet for the 2020s*, 2022, Table 5. Its 20 epochs of warm-up of 300
    become the same share of ``epochs``.

    Args:
        lr: greatest learning rate.
        epochs: passes over the training images.
    """
    recipe = TrainingRecipe(
        optimizer="adamw", lr=lr, weight_decay=0.05, warmup_epochs=epochs // 15,
        label_smoothing=0.1, mixup=0.8, cutmix=1.0, ema_decay=0.9999,
    )  # fmt: skip
    augmentation = Augmentation(auto_augment="rand-m9-mstd0.5-inc1", re_prob=0.25)
    return {"recipe": asdict(recipe), "augmentation": asdict(augmentation)}


def train_one_way(
    network: Mapping[str, Any],
    bank: str,
    bank_digest: Mapping[str, str],  # noqa: ARG001 - likewise of the bank
    way: str,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
    augmentation: Mapping[str, Any] | None,
    classes: int | None,
    seed: int,
) -> dict[str, Any]:
    """Evaluate a network, or train it in one way; runs in a worker.

    Returns:
        The top-1 accuracy on the test images after every epoch; a single one where nothing is
        trained.
    """
    with open_for_worker(network) as checkpoint:
        begun = checkpoint
        if way in ("replaced", "tuned", "closest"):
            begun = replace_kernels(checkpoint, bank=bank, layers=network["layers"])
        elif way in ("bank", "random"):
            begun = make_untrained(checkpoint, seed)
            if way == "bank":
                begun = initialize(
                    begun, method="bank", bank=bank, match_scale=True, seed=seed,
                    layers=network["layers"],
                )  # fmt: skip
        if way not in WAYS:
            settings = EvaluationSettings(run["batch_size"], run["workers"])
            found = evaluate(begun, DataSpec(**test), settings, preprocess=network["preprocess"])
            return {"accuracy": [found.accuracy]}
        images = TrainingImages(
            DataSpec(**{**train, "seed": seed}), DataSpec(**test),
            Augmentation(**augmentation) if augmentation else None,
        )  # fmt: skip
        freeze = "none" if way == "scratch" else "depthwise"
        _, result = tune(
            begun, images, TrainingRecipe(**{**recipe, "freeze": freeze}),
            RunSettings(**{**run, "seed": seed}),
            start=TrainingStart(way != "tuned", classes, network["preprocess"]),
        )  # fmt: skip
    return {"accuracy": [row.accuracy for row in result.history]}


def _result(
    given: Mapping[str, Any],
    before: Mapping[str, float],
    curves: Mapping[str, Sequence[Estimate]],
) -> StudyResult:
    defaults = STUDIES.options("frozen")
    epochs = range(1, 1 + int(given["epochs"]))
    columns = [("top-1 %", "left"), *((f"epoch {k}", "right") for k in epochs)]
    rows = [(way, *map(str, line)) for way, line in curves.items()]
    remarks = [f"{way}: {100 * value:.2f} % before any training" for way, value in before.items()]
    return StudyResult(
        "frozen",
        {k: v for k, v in given.items() if v != defaults[k].default},
        {
            **before,
            "accuracy": {k: [point._asdict() for point in line] for k, line in curves.items()},
        },
        [Table("trained with frozen depthwise kernels", columns, rows)],
        remarks,
        lambda figure: draw_curves(figure, list(epochs), curves, "epochs of training"),
    )
