"""What studies tell their workers, and what these make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from filtersurgeon.checkpoint import Checkpoint, load
from filtersurgeon.learn.data import DataSpec
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.image_run import ImageRun
from filtersurgeon.learn.settings import Recipe, RunSettings
from filtersurgeon.studying import Lab


def network_plan(lab: Lab) -> dict[str, Any]:
    """Say where the network is, and which of its layers are meant.

    Its digest is among the words, so that the cache of jobs notices when the file changed.
    """
    network = lab.network()
    return {
        "network": {
            "source": lab.source,
            "digest": network.digest,
            "architecture": network.architecture,
            "preprocess": dict(lab.preprocess),
            "layers": list(lab.layers or ()),
        }
    }


def open_for_worker(network: Mapping[str, Any]) -> Checkpoint:
    """Open the network of a plan.

    Args:
        network: as :func:`network_plan` describes it.
    """
    return load(network["source"], arch=network["architecture"])


def image_run(
    images: Mapping[str, Any] | None, network: Mapping[str, Any], settings: EvaluationSettings
) -> ImageRun | None:
    """Say which images a method looks at, and how; None where it looks at none.

    Args:
        images: the fields of a ``DataSpec``.
        network: as :func:`network_plan` describes it.
        settings: how to evaluate.
    """
    if images is None:
        return None
    spec = DataSpec(**images)
    return ImageRun(spec, network["preprocess"], settings.workers, settings.device)


def network_words(lab: Lab) -> dict[str, Any]:
    """Say where the network is, on which images it is judged, and how."""
    return {
        **network_plan(lab),
        "test": asdict(lab.images()),
        "evaluation": asdict(lab.evaluation),
        "seed": lab.seed,
    }


def training_images(lab: Lab, train: str, subset: int) -> dict[str, Any]:
    """Say which images to learn from.

    Args:
        lab: the images to check on.
        train: images to learn from; none for the training split of the lab's.
        subset: so many of them, drawn by the lab's seed; 0 takes all.
    """
    images = lab.images()
    labels = None if train else images.labels
    return asdict(
        DataSpec(train or images.source, "train", labels, images.root, subset or None, lab.seed)
    )


def learning_plan(lab: Lab, epochs: int, lr: float) -> dict[str, Any]:
    """Say how to learn: Adam at a fixed learning rate."""
    evaluation = lab.evaluation
    device = "cpu" if evaluation.device == "cpu" else "auto"
    run = RunSettings(epochs, evaluation.batch_size, workers=evaluation.workers, device=device)
    recipe = Recipe(optimizer="adam", lr=lr, weight_decay=0.0, schedule="none")
    return {"recipe": asdict(recipe), "run": asdict(run)}


def training_plan(lab: Lab, train: str, subset: int, epochs: int, lr: float) -> dict[str, Any]:
    """Say what to learn from and what to check on; Adam at a fixed learning rate.

    Args:
        lab: the images to check on, and how to evaluate.
        train: images to learn from; none for the training split of the lab's.
        subset: learn from so many of them; 0 takes all.
        epochs: passes over them.
        lr: learning rate.
    """
    return {
        "train": training_images(lab, train, subset),
        "test": asdict(replace(lab.images(), seed=lab.seed)),
        **learning_plan(lab, epochs, lr),
    }
