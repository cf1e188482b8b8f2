"""Running two networks on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.errors import DataError
from filtersurgeon.learn.comparison import Comparison, Side
from filtersurgeon.learn.counter import Counter
from filtersurgeon.learn.difference import Difference, output_difference
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.learn.measure import (
    Latency,
    count_macs,
    count_parameters,
    measure_latencies,
)
from filtersurgeon.networks.devices import find_device
from filtersurgeon.networks.memory import batch_fits
from filtersurgeon.networks.outputs import class_scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Subject:
    """A network to compare.

    Attributes:
        name: how results call it.
        model: takes (images, channels, height, width); with labels, its outputs hold class scores.
        file_bytes: size of its file, if it has one.
    """

    name: str
    model: nn.Module
    file_bytes: int | None = None


@dataclass(frozen=True)
class RandomImages:
    """Inputs of independent standard normal numbers, for networks without data.

    Attributes:
        count: how many.
        shape: (channels, height, width), or with as many sides as the network takes.
        seed: of the numbers.
    """

    count: int
    shape: tuple[int, ...]
    seed: int = 0


@dataclass(frozen=True)
class ComparisonSettings:
    """How to run a comparison.

    Attributes:
        batch_size: images per batch.
        workers: processes that read images ahead.
        device: torch's name of the device.
        latency_runs: timed passes per network; 0 leaves latency out.
        latency_batch_size: images per timed pass.
    """

    batch_size: int = 32
    workers: int = 0
    device: str = "cpu"
    latency_runs: int = 20
    latency_batch_size: int = 1


def compare(
    subjects: tuple[Subject, Subject],
    inputs: LabelledImages | RandomImages,
    settings: ComparisonSettings = ComparisonSettings(),
    progress: Progress | None = None,
) -> Comparison:
    """Run two networks on the same inputs, batch by batch, and measure each.

    Args:
        subjects: the reference and the network to compare with it.
        inputs: labelled images, on which accuracy is counted too, or random ones.
        settings: batch size, device and so on.
        progress: called with inputs done and inputs in all.

    Raises:
        DataError: no inputs, or unreadable images.
        OutputError: outputs that cannot be compared, or with labels no class scores.
        OptionError: there is no such device.
        OutOfMemoryError: a batch does not fit.
    """
    import torch

    device = find_device(settings.device)
    models = [subject.model.to(device) for subject in subjects]
    modes = [model.training for model in models]
    try:
        with torch.inference_mode(), batch_fits(settings.batch_size):
            passes = _Passes([model.eval() for model in models], device)
            total = inputs.count if isinstance(inputs, RandomImages) else len(inputs)
            for images, labels in _batches(inputs, settings):
                passes.add(images.to(device), None if labels is None else labels.to(device))
                if progress is not None:
                    progress(passes.difference.n_inputs, total)
        if passes.shape is None:
            raise DataError("there are no inputs to compare on")
        latencies = _latencies(models, passes.shape, settings)
        sides = [
            _measure(subject, passes.shape, evaluation, latency)
            for subject, evaluation, latency in zip(
                subjects, passes.evaluations(), latencies, strict=True
            )
        ]
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    return Comparison(sides[0], sides[1], passes.difference)


class _Passes:
    """What grows while both networks run over the inputs."""

    def __init__(self, models: list[nn.Module], device: torch.device) -> None:
        self.models, self.device = models, device
        self.difference = Difference()
        self.shape: tuple[int, ...] | None = None
        self.counters: list[Counter] = []
        self.seconds = [0.0, 0.0]

    def add(self, images: Tensor, labels: Tensor | None) -> None:
        """Run both networks on one batch."""
        outputs = []
        for side, model in enumerate(self.models):
            start = perf_counter()
            outputs.append(model(images))
            self.seconds[side] += perf_counter() - start
        self.shape = tuple(images.shape[1:])
        self.difference += output_difference(outputs[0], outputs[1], len(images))
        if labels is None:
            return
        scores = [class_scores(output) for output in outputs]
        if not self.counters:
            self.counters = [Counter(scores[0].shape[1], self.device) for _ in self.models]
        for counter, output in zip(self.counters, scores, strict=True):
            counter.update(output, labels)

    def evaluations(self) -> list[Evaluation | None]:
        """Give what the counters found, if there were labels."""
        if not self.counters:
            return [None, None]
        return [
            counter.result(seconds)
            for counter, seconds in zip(self.counters, self.seconds, strict=True)
        ]


def _batches(
    inputs: LabelledImages | RandomImages, settings: ComparisonSettings
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Give batches of images with their labels, if they have any."""
    import torch

    if isinstance(inputs, LabelledImages):
        yield from batches(make_loader(inputs, settings.batch_size, settings.workers))
        return
    generator = torch.Generator().manual_seed(inputs.seed)
    for start in range(0, inputs.count, settings.batch_size):
        count = min(settings.batch_size, inputs.count - start)
        yield torch.randn(count, *inputs.shape, generator=generator), None


def _latencies(
    models: list[nn.Module], shape: tuple[int, ...], settings: ComparisonSettings
) -> Sequence[Latency | None]:
    if not settings.latency_runs:
        return [None] * len(models)
    return measure_latencies(models, shape, settings.latency_batch_size, settings.latency_runs)


def _measure(
    subject: Subject,
    shape: tuple[int, ...],
    evaluation: Evaluation | None,
    latency: Latency | None,
) -> Side:
    """Count one network's parameters and work, and join what was measured."""
    return Side(
        name=subject.name,
        parameters=count_parameters(subject.model),
        macs=count_macs(subject.model, shape),
        file_bytes=subject.file_bytes,
        latency=latency,
        evaluation=evaluation,
    )
