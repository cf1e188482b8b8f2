"""Accuracy of a network on labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.errors import DataError
from filtersurgeon.learn.counter import Counter
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.networks.devices import find_device
from filtersurgeon.networks.memory import batch_fits
from filtersurgeon.networks.outputs import class_scores

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class EvaluationSettings:
    """How to run an evaluation.

    Attributes:
        batch_size: images per batch.
        workers: processes that read images ahead.
        device: torch's name of the device.
        confusion: also count which class is taken for which.
    """

    batch_size: int = 64
    workers: int = 0
    device: str = "cpu"
    confusion: bool = False


def evaluate(
    model: nn.Module,
    data: LabelledImages,
    n_classes: int,
    settings: EvaluationSettings = EvaluationSettings(),
    progress: Progress | None = None,
) -> Evaluation:
    """Count how often a network is right.

    The network is moved to the device; it runs in evaluation mode and comes back in the mode it
    had.

    Args:
        model: takes (images, channels, height, width); its outputs hold class scores.
        data: the labelled images.
        n_classes: outputs of the network.
        settings: batch size, device and so on.
        progress: called with images done and images in all after every batch.

    Returns:
        The counts.

    Raises:
        DataError: no images, an unreadable one, or outputs of another shape.
        OutputError: it is not clear which output holds the class scores.
        OptionError: there is no such device.
        OutOfMemoryError: the batch does not fit.
    """
    import torch

    if len(data) == 0:
        raise DataError("there are no images to evaluate")
    device = find_device(settings.device)
    counts = Counter(n_classes, device, settings.confusion)
    loader = make_loader(data, settings.batch_size, settings.workers)
    was_training = model.training
    model.to(device).eval()
    done, start = 0, perf_counter()
    try:
        with torch.inference_mode(), batch_fits(settings.batch_size):
            for images, labels in batches(loader):
                outputs = class_scores(model(images.to(device, non_blocking=True)))
                counts.update(outputs, labels.to(device, non_blocking=True))
                done += len(labels)
                if progress is not None:
                    progress(done, len(data))
        return counts.result(perf_counter() - start)
    finally:
        model.train(was_training)
