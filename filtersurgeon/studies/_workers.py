"""What studies tell their workers, and what these make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import DataSpec, new_head, part_of
from filtersurgeon.data.image_run import ImageRun
from filtersurgeon.data.splits import FIT
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.networks import open_network
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.networks.files import load
from filtersurgeon.studies._lab import Lab


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
    root = None if train and Path(train).exists() else images.root
    spec = DataSpec(train or images.source, None, labels, root, subset or None, lab.seed)
    learnt, measured = part_of(spec, FIT), part_of(images)
    lab.note(*learnt.notes())
    if spec.source == images.source and learnt.described() == measured.described():
        lab.remark(
            f"warning: {learnt.data} has no training images of its own, so accuracy is measured on "
            "the images that weights are fitted with; name others with the parameter train=DATA"
        )
    return asdict(spec)


def head_plan(lab: Lab, train: Mapping[str, Any]) -> dict[str, Any]:
    """Say how many classes a new head has, which a network for other classes needs.

    Args:
        lab: the network.
        train: the fields of a ``DataSpec``, the images to learn from.

    Returns:
        ``classes``: outputs of the new head; None where the network's own head fits.
    """
    checkpoint = lab.checkpoint or lab.network()
    outputs = open_network(checkpoint, lab.preprocess).n_classes
    count = new_head(DataSpec(**train), outputs)
    if count is not None:
        lab.remark(f"a new head of {count} classes replaces the network's head of {outputs}")
    return {"classes": count}


def learning_plan(lab: Lab, epochs: int, lr: float) -> dict[str, Any]:
    """Say how to learn: Adam at a fixed learning rate."""
    evaluation = lab.evaluation
    device = "cpu" if evaluation.device == "cpu" else "auto"
    run = RunSettings(epochs, evaluation.batch_size, workers=evaluation.workers, device=device)
    recipe = TrainingRecipe(optimizer="adam", lr=lr, weight_decay=0.0, schedule="none")
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
    images = training_images(lab, train, subset)
    return {
        "train": images,
        "test": asdict(replace(lab.images(), seed=lab.seed)),
        **head_plan(lab, images),
        **learning_plan(lab, epochs, lr),
    }
