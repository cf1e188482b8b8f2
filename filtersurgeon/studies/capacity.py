"""Do frozen spatial filters suit larger and smaller networks? Train networks of several sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.data import DataSpec, part_of
from filtersurgeon.data.reading import count_classes
from filtersurgeon.data.splits import FIT
from filtersurgeon.errors import DivergedError, OptionError
from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart, tune
from filtersurgeon.networks.hub import untrained
from filtersurgeon.studies._fixed import (
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
    learning_plan,
    training_images,
    words,
)
from filtersurgeon.studies.fixed_filters import LEARNED, METHODS
from filtersurgeon.transforms.initialize import initialize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNGUIDED = tuple(name for name in METHODS if name != "guided-steer")
_FAMILY = ",".join(f"timm:efficientnet_b{number}" for number in range(6))
PRESETS = {
    "paper": {
        "networks": _FAMILY, "methods": "learned,unchanged,ghaar,psine", "epochs": 80, "lr": 1e-4,
        "batch_size": 4, "repeats": 1,
    }
}  # fmt: skip
"""Section 4.3: EfficientNet-b0 to b5, one model each, 80 epochs."""

Key = tuple[str, str, int]  # network, method, repeat


def capacity(
    lab: Lab,
    *,
    networks: str = _FAMILY,
    methods: str = "learned,unchanged,ghaar",
    train: str = "",
    train_subset: int = 0,
    epochs: int = 3,
    lr: float = 1e-3,
    batch_size: int = 0,
    classes: int = 0,
    repeats: int = 3,
    preset: str = "",
) -> StudyResult:
    """Train networks of several sizes from scratch, with learned and with fixed spatial filters.

    INPUT is not needed: the networks are built by name, untrained, with as many classes as the
    training images have. Every method gives the spatial filters their values, which are frozen
    while all other weights train; ``learned`` changes and freezes nothing. Runs of one repeat
    share the order of images and the weights that are not spatial. ``-p preset=paper`` sets the
    authors' values.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 4.3
    and Fig. 9.

    Args:
        lab: the images to check on.
        networks: architectures between commas, such as ``timm:efficientnet_b0`` or
            ``factory:my_networks:mobilenet(width=0.5)``; the paper has EfficientNet-b0 to b5.
        methods: ``learned``, ``ones``, ``dct2``, ``unchanged``, ``ghaar`` and ``psine``.
        train: images to learn from; the training split of ``--data`` if left out.
        train_subset: learn from so many of them; 0 takes all.
        epochs: passes over the training images; the paper has 80.
        lr: learning rate of Adam; the paper has 1e-4.
        batch_size: images per step; the paper has 4; 0 takes ``--batch-size``.
        classes: number of outputs; 0 counts the classes of the training images.
        repeats: random seeds; the paper has one model for each point.
        preset: ``paper``.

    Returns:
        Per network its parameters and the share of them that is spatial; top-1 accuracy after the
        last epoch by method, and the difference from ``learned``, paired by seed, with Student's
        95 % intervals over the repeats. A run that diverged counts nowhere.
    """
    names, chosen = _read_networks(networks), words(methods, _UNGUIDED, "methods")
    if repeats < 1 or epochs < 1:
        raise OptionError("repeats and epochs should be at least 1")
    lab = with_batches(lab, batch_size)
    images = training_images(lab, train, train_subset)
    count = classes or _count_classes(DataSpec(**images))
    shared = {
        "preprocess": dict(lab.preprocess),
        "classes": count,
        "train": images,
        "test": asdict(lab.images()),
        **learning_plan(lab, epochs, lr),
    }
    sizes = {name: _count_parameters(name, count) for name in names}
    jobs = {
        (name, method, repeat): {
            **shared, "architecture": name, "method": method, "seed": lab.seed + repeat,
        }
        for name in names
        for method in chosen
        for repeat in range(repeats)
    }  # fmt: skip
    results = run_jobs(train_size, list(jobs.values()), lab.jobs, lab.progress)
    found = {key: result["accuracy"] for key, result in zip(jobs, results, strict=True)}
    given = {
        "networks": networks, "methods": methods, "train_subset": train_subset, "epochs": epochs,
        "lr": lr, "batch_size": batch_size, "classes": classes, "repeats": repeats,
        "preset": preset,
    }  # fmt: skip
    rows = [_row(found, name, method, repeats, sizes[name]) for name in names for method in chosen]
    return StudyResult(
        "capacity",
        changed_options("capacity", given),
        {"rows": rows_as_json(rows)},
        [_table(rows)],
        compare_with_learned(rows, lambda row: f"{row['method']} of {row['network']}"),
        lambda figure: _draw(figure, rows),
    )


def _read_networks(text: str) -> list[str]:
    """Split architectures at commas outside of parentheses."""
    found = [name.strip() for name in re.split(r",(?![^(]*\))", text)]
    if not all(found):
        raise OptionError(f"networks={text} should be architectures between commas")
    return list(dict.fromkeys(found))


def _count_classes(spec: DataSpec) -> int:
    if spec.labels is not None:
        raise OptionError("a label file does not tell how many classes there are; pass classes=N")
    return count_classes(spec.source, part_of(spec, FIT), spec.root)


def _count_parameters(architecture: str, classes: int) -> tuple[int, int]:
    """Count the parameters of a network, and those of its spatial filters."""
    from filtersurgeon.networks.skeleton import skeleton

    model = skeleton(architecture, num_classes=classes)
    spatial = [p for p in model.parameters() if p.ndim > 3 and prod(p.shape[2:]) > 1]
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in spatial)


def train_size(
    architecture: str,
    classes: int,
    method: str,
    preprocess: Mapping[str, Any],
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    recipe: Mapping[str, Any],
    run: Mapping[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Build, initialise and train one network; runs in a worker.

    Returns:
        ``accuracy``: top-1 on the test images after every epoch, or None if training diverged.
    """
    begun = untrained(architecture, seed=seed, num_classes=classes)
    if method != LEARNED:
        begun = initialize(begun, method=method, seed=seed)
    freeze = "none" if method == LEARNED else "spatial"
    try:
        _, result = tune(
            begun,
            TrainingImages(DataSpec(**{**train, "seed": seed}), DataSpec(**test)),
            TrainingRecipe(**{**recipe, "freeze": freeze}),
            RunSettings(**{**run, "seed": seed}),
            start=TrainingStart(preprocess=preprocess),
        )
    except DivergedError:
        return {"accuracy": None}
    return {"accuracy": [row.accuracy for row in result.history]}


def _row(
    found: Mapping[Key, Sequence[float] | None],
    network: str,
    method: str,
    repeats: int,
    sizes: tuple[int, int],
) -> dict[str, Any]:
    runs = [found[network, method, repeat] for repeat in range(repeats)]
    base = [found.get((network, LEARNED, repeat)) for repeat in range(repeats)]
    last = [run[-1] for run in runs if run]
    gaps = [a[-1] - b[-1] for a, b in zip(runs, base, strict=True) if a and b]
    return {
        "network": network,
        "method": method,
        "parameters": sizes[0],
        "spatial": sizes[1],
        "accuracy": student_interval(last) if last else None,
        "difference": student_interval(gaps) if gaps and method != LEARNED else None,
        "runs": runs,
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = [("network", "left"), ("parameters", "right"), ("spatial", "right"),
               ("filters", "left"), ("top-1 %", "right"), ("minus learned", "right")]  # fmt: skip
    cells = [
        (
            row["network"],
            f"{row['parameters']:,}",
            f"{row['spatial'] / row['parameters']:.1%}",
            row["method"],
            str(row["accuracy"] or "diverged"),
            show_difference(row["difference"]),
        )
        for row in rows
    ]
    return Table("spatial filters fixed, all other weights learned", columns, cells)


def _draw(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw accuracy against the number of parameters, as Fig. 9."""
    axes = figure.subplots()
    for number, method in enumerate(dict.fromkeys(row["method"] for row in rows)):
        line = [x for x in rows if x["method"] == method and x["accuracy"] is not None]
        points = [row["accuracy"] for row in line]
        spread = [
            [100 * (point.mean - point.low) for point in points],
            [100 * (point.high - point.mean) for point in points],
        ]
        # Side by side, so that no bar hides another.
        places = [row["parameters"] * (1 + 0.02 * number) for row in line]
        axes.errorbar(
            places, [100 * point.mean for point in points], yerr=spread, label=method, marker="o",
            markersize=4, linewidth=1.2, elinewidth=0.9, capsize=2.5,
        )  # fmt: skip
    axes.set(xscale="log", xlabel="parameters", ylabel="top-1 (%), 95 % interval")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
