"""Running two networks on the same inputs: the result, the passes, and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.atomic import atomic_file
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.errors import DataError
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.learn.latency import Latency, check_runtime, measure_latencies
from filtersurgeon.learn.measure import (
    Difference,
    count_macs,
    count_parameters,
    output_difference,
)
from filtersurgeon.learn.outcomes import Outcome, make_counter
from filtersurgeon.learn.scores import ScoreReader
from filtersurgeon.networks.devices import FittingBatches, batch_fits, find_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SCHEMA = "filtersurgeon.comparison/2"


@dataclass(frozen=True)
class Side:
    """One network's own figures.

    Attributes:
        name: how it is called.
        parameters: number of weights.
        macs: multiply-accumulates per image.
        file_bytes: size of its file, or None.
        latency: time of a forward pass, or None.
        evaluation: what was measured on labelled images, or None.
    """

    name: str
    parameters: int
    macs: int
    file_bytes: int | None
    latency: Latency | None
    evaluation: Outcome | None


@dataclass(frozen=True)
class Comparison(Tabular):
    """The comparison of two networks: size, latency, outputs and accuracy.

    Attributes:
        first: the reference.
        second: the network compared with it.
        difference: of their outputs.
    """

    first: Side
    second: Side
    difference: Difference

    def __repr__(self) -> str:
        entries = (
            f"{side.name}: {side.parameters} parameters, {side.macs} MACs"
            + (
                ""
                if side.evaluation is None
                else f", {side.evaluation.score_name} {side.evaluation.score:.2%}"
            )
            for side in (self.first, self.second)
        )
        return summarise(self, entries, relative_max=float(f"{self.difference.relative_max:.3g}"))

    def rows(self) -> Iterator[Row]:
        """Give a row for each network."""
        measured = self.first.evaluation
        name = "top-1" if measured is None else measured.score_name
        for side in (self.first, self.second):
            evaluation = side.evaluation
            yield {
                "network": side.name,
                "parameters": side.parameters,
                "MACs": side.macs,
                "bytes": side.file_bytes,
                "latency (ms)": side.latency and side.latency.median_ms,
                "images": evaluation and evaluation.n_images,
                name: evaluation and evaluation.score,
                "relative difference": (
                    self.difference.relative_max if side is self.second else None
                ),
            }

    def failures(self, max_diff: float | None = None, max_drop: float | None = None) -> list[str]:
        """Say which limits do not hold.

        Args:
            max_diff: greatest relative output difference allowed.
            max_drop: greatest loss allowed of top-1 accuracy, mean ROC AUC or mean Dice, in
                percentage points.

        Raises:
            DataError: a drop was asked for without labelled images.
        """
        found = []
        # Written so that nothing passes a limit that is not a number.
        if max_diff is not None and not self.difference.relative_max <= max_diff:
            largest = self.difference.relative_max
            found.append(f"outputs differ by up to {largest:.3g} (relative), allowed {max_diff:g}")
        if max_drop is not None:
            if self.first.evaluation is None or self.second.evaluation is None:
                raise DataError("a drop of accuracy can only be checked on labelled images")
            drop = 100 * (self.first.evaluation.score - self.second.evaluation.score)
            if not drop <= max_drop:
                name = self.first.evaluation.score_name
                found.append(f"{name} drops by {drop:.2f} percentage points, allowed {max_drop:g}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "schema": SCHEMA,
            "first": _side_dict(self.first),
            "second": _side_dict(self.second),
            "difference": self.difference.to_dict(),
        }


def short_names(comparison: Comparison) -> tuple[str, str]:
    """Give two names that fit above columns: files without folders where that tells them apart."""
    first, second = comparison.first.name, comparison.second.name
    short = Path(first).name, Path(second).name
    if short[0] == short[1] and first != second:
        return first, second
    return short


def _side_dict(side: Side) -> dict[str, Any]:
    return {
        **asdict(side),
        "evaluation": None if side.evaluation is None else side.evaluation.to_dict(),
    }


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
    """Settings of a comparison.

    Attributes:
        batch_size: images per batch.
        workers: processes that read images ahead.
        device: torch's name of the device; ``auto`` is a GPU if there is one.
        latency_runs: timed passes per network; 0 leaves latency out.
        latency_batch_size: images per timed pass.
        runtime: what times the passes, ``torch`` or ``onnxruntime``.
    """

    batch_size: int = 32
    workers: int = 0
    device: str = "auto"
    latency_runs: int = 20
    latency_batch_size: int = 1
    runtime: str = "torch"


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

    check_runtime(settings.runtime)
    device = find_device(settings.device)
    models = [subject.model.to(device) for subject in subjects]
    modes = [model.training for model in models]
    try:
        with torch.inference_mode(), batch_fits(settings.batch_size):
            kind, names = None, tuple[str, ...]()
            if isinstance(inputs, LabelledImages):
                kind, names = inputs.kind, inputs.class_names
            passes = _Passes([model.eval() for model in models], device, kind, names)
            fitting = FittingBatches(settings.batch_size)
            total = inputs.count if isinstance(inputs, RandomImages) else len(inputs)
            for images, labels in _batches(inputs, settings):
                more = [] if labels is None else [labels]
                for outputs, some, *true in fitting.run(passes.run, images, *more):
                    passes.add(outputs, some, true[0].to(device) if true else None)
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

    def __init__(
        self, models: list[nn.Module], device: torch.device, kind: str | None, names: Sequence[str]
    ) -> None:
        self.models, self.device = models, device
        self.difference = Difference()
        self.shape: tuple[int, ...] | None = None
        self.counters: list[Any] = []
        self.readers = [None if kind is None else ScoreReader(kind) for _ in models]
        self.kind, self.names = kind, names
        self.seconds = [0.0, 0.0]

    def run(self, images: Tensor) -> tuple[list[Any], list[Any], list[float]]:
        """Run both networks on one batch; give outputs, scores if there are labels, and seconds."""
        outputs: list[Any] = []
        scores: list[Any] = []
        seconds = []
        images = images.to(self.device)
        for reader, model in zip(self.readers, self.models, strict=True):
            start = perf_counter()
            if reader is None:
                outputs.append(model(images))
            else:
                scores.append(reader(_keeping(model, outputs), images))
            seconds.append(perf_counter() - start)
        return outputs, scores, seconds

    def add(
        self,
        found: tuple[list[Any], list[Any], list[float]],
        images: Tensor,
        labels: Tensor | None,
    ) -> None:
        """Take up what both networks gave for one batch."""
        outputs, scores, seconds = found
        self.seconds = [sum(pair) for pair in zip(self.seconds, seconds, strict=True)]
        self.shape = tuple(images.shape[1:])
        self.difference += output_difference(outputs[0], outputs[1], len(images))
        if labels is None:
            return
        if not self.counters:
            count = scores[0].shape[1]
            self.counters = [
                make_counter(str(self.kind), count, self.device, self.names) for _ in self.models
            ]
        for counter, output in zip(self.counters, scores, strict=True):
            counter.update(output, labels)

    def evaluations(self) -> list[Outcome | None]:
        """Give what the counters found, if there were labels."""
        if not self.counters:
            return [None, None]
        return [
            counter.result(seconds)
            for counter, seconds in zip(self.counters, self.seconds, strict=True)
        ]


def _keeping(model: nn.Module, outputs: list[Any]) -> Callable[[Tensor], Any]:
    """Give a run of a network that also adds what it returns to a list."""

    def run(images: Tensor) -> Any:
        outputs.append(model(images))
        return outputs[-1]

    return run


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
    return measure_latencies(
        models, shape, settings.latency_batch_size, settings.latency_runs, settings.runtime
    )


def _measure(
    subject: Subject,
    shape: tuple[int, ...],
    evaluation: Outcome | None,
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


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw what the second network costs and knows, as ratios to the first.

    Args:
        comparison: two networks.
        path: where to; the suffix chooses the format (``.png``, ``.svg``, ``.pdf``).
    """
    from matplotlib.figure import Figure

    ratios, (first, second) = cost_ratios(comparison), short_names(comparison)
    figure = Figure(figsize=(10, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    bars = left.barh(list(ratios), list(ratios.values()), color="tab:blue")
    left.bar_label(bars, fmt=" {:.3g}")
    left.axvline(1, color="black", linewidth=0.8)
    left.margins(x=0.2)
    left.set(xlabel=f"{second} / {first}")
    pairs = zip((first, second), (comparison.first, comparison.second), strict=True)
    known = [(name, side.evaluation) for name, side in pairs if side.evaluation]
    # The reference on top, where one begins to read.
    for place, (_, found) in enumerate(reversed(known)):
        value, spread = found.score, None
        if isinstance(found, Evaluation):
            low, high = found.interval()
            spread = [[100 * (value - low)], [100 * (high - value)]]
        right.errorbar([100 * value], [place], xerr=spread, fmt="o", capsize=4)
    right.set_yticks(range(len(known)), [name for name, _ in reversed(known)])
    right.margins(y=0.5)
    if not known:
        right.set_axis_off()
    agreement = f"same class: {100 * comparison.difference.agreement:.1f} %"
    name = known[0][1].score_name if known else "top-1"
    between = ", 95 % interval" if known and isinstance(known[0][1], Evaluation) else ""
    right.set(xlabel=f"{name} (%){between}", title=agreement)
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:])


def cost_ratios(comparison: Comparison) -> dict[str, float]:
    """Give parameters, MACs, file size and latency of the second network over the first's."""
    first, second = comparison.first, comparison.second
    pairs = {
        "latency": (
            first.latency.median_ms if first.latency else None,
            second.latency.median_ms if second.latency else None,
        ),
        "file size": (first.file_bytes, second.file_bytes),
        "MACs": (first.macs, second.macs),
        "parameters": (first.parameters, second.parameters),
    }
    return {word: b / a for word, (a, b) in pairs.items() if a and b is not None}
