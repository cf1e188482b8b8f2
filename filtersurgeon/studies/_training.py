"""What studies that train networks tell their workers."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from filtersurgeon.learn.data import DataSpec
from filtersurgeon.learn.settings import Recipe, RunSettings
from filtersurgeon.studying import Lab


def network_plan(lab: Lab) -> dict[str, Any]:
    """Say where the network is, and which of its layers are meant."""
    network = lab.network()
    return {
        "source": lab.source,
        "digest": network.digest,
        "architecture": network.architecture,
        "preprocess": dict(lab.preprocess),
        "layers": list(lab.layers or ()),
    }


def training_plan(lab: Lab, train: str, subset: int, epochs: int, lr: float) -> dict[str, Any]:
    """Say what to learn from and what to check on; Adam at a fixed learning rate.

    Args:
        lab: the images to check on, and how to evaluate.
        train: images to learn from; none for the training split of the lab's.
        subset: learn from so many of them; 0 takes all.
        epochs: passes over them.
        lr: learning rate.
    """
    images, evaluation = lab.images(), lab.evaluation
    labels = None if train else images.labels
    return {
        "train": asdict(
            DataSpec(train or images.source, "train", labels, images.root, subset or None)
        ),
        "test": asdict(replace(images, seed=lab.seed)),
        "recipe": asdict(Recipe(optimizer="adam", lr=lr, weight_decay=0.0, schedule="none")),
        "run": asdict(
            RunSettings(
                epochs,
                evaluation.batch_size,
                workers=evaluation.workers,
                device="cpu" if evaluation.device == "cpu" else "auto",
            )
        ),
    }
