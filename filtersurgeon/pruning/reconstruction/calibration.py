"""Calibration images in batches, and a network's run on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.data.kinds import CLASSES, MULTILABEL
from filtersurgeon.errors import DataError, GraphError
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.program import Program, Values, record_program
from filtersurgeon.networks.devices import FittingBatches, give_back_memory
from filtersurgeon.pruning.compensation.calibration import Calibration, Result
from filtersurgeon.pruning.compensation.readers import Intercepts
from filtersurgeon.pruning.reconstruction.layers import Survey, survey
from filtersurgeon.pruning.reconstruction.rows import Targets
from filtersurgeon.pruning.worth import class_divergence, relative_error

LARGEST = 512
"""Images that are looked at; more say little more."""

_HELD = 0.2
_BATCH_BYTES = 1 << 29
_BATCH = 50
_FEWEST = 8
_TIDY = 8
_IMAGE_AXES = 4


@dataclass(frozen=True)
class Batch:
    """Images of one run.

    Attributes:
        images: a whole batch; where images are missing, the first ones come again.
        count: how many of them count.
        held: whether they are held out of all fits.
    """

    images: Tensor
    count: int
    held: bool


@dataclass
class Bench:
    """A network on the bench: its run, its images, and what can be cut of it.

    Attributes:
        opened: the network as it was opened.
        network: the same in float32, on the device.
        program: its run.
        survey: what can be cut.
        batches: the images, those that are held out last.
        places: where a constant can be added to a layer's outputs.
        labels: of all batches in order, ``(images,)`` where they are classes; or None.
        kind: of the labels, see ``data/kinds.py``.
        names: of the classes of several labels.
        targets: what reading layers make in the original network, as far as it is known.
    """

    opened: OpenedModel
    network: nn.Module
    program: Program
    survey: Survey
    batches: list[Batch]
    places: Intercepts
    labels: Tensor | None = None
    kind: str = CLASSES
    names: tuple[str, ...] = ()
    tensors: dict[str, Tensor] = field(default_factory=dict)
    targets: Targets = field(default_factory=Targets)

    def __post_init__(self) -> None:
        self.tensors = {
            **dict(self.network.named_buffers()),
            **{name: p.detach() for name, p in self.network.named_parameters()},
        }

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.batches[0].images.device

    @property
    def count(self) -> int:
        """How many images there are."""
        return sum(batch.count for batch in self.batches)

    def weight(self, layer: str) -> Tensor:
        """Give the original weight of a reading layer."""
        return self.tensors[self.survey.readers[layer].layer.tensor]

    def outputs(self, values: Values) -> Tensor:
        """Give what a run returned that is compared: class scores, or all numbers in a row."""
        if self.program.scores is not None:
            return values[self.program.scores]
        found = [values[number] for number in self.program.outputs]
        real = [x.flatten(1) for x in found if x.is_floating_point() and x.ndim > 0]
        return torch.cat(real, dim=1)

    @property
    def classifies(self) -> bool:
        """Whether the outputs are class scores, ``(images, classes)``, of one class each."""
        return (
            self.kind != MULTILABEL and self.program.scores is not None and self._scores_axes == 2
        )

    _scores_axes: int = 0


def repeat_on_bench(function: Callable[[FittingBatches], Result]) -> Result:
    """Call a function that opens a bench and works on it; again if memory runs out.

    Args:
        function: takes what says how many images a batch has, for :func:`open_bench`. It begins
            anew, because what is kept of each batch belongs to a batch of that size.

    Raises:
        OutOfMemoryError: two images do not fit.
    """
    fitting = bench_batches()
    return fitting.repeat(lambda _: function(fitting))


def bench_batches() -> FittingBatches:
    """Give what says how many images of a bench run at once."""
    return FittingBatches(_BATCH, least=2)


def open_bench(
    opened: OpenedModel,
    calibration: Calibration,
    *,
    streams: bool = False,
    fitting: FittingBatches | None = None,
) -> Bench:
    """Read images, record a network's run on them, and find what can be cut.

    Args:
        opened: the network.
        calibration: the images.
        streams: whether residual streams may be cut, too.
        fitting: how many images a batch has at most; told how many it has.

    Raises:
        DataError: there are too few images, or one cannot be read.
        GraphError: the run cannot be recorded.
        OutOfMemoryError: a batch does not fit.
    """
    network = calibration.replica(opened, {})
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    images, labels = _read(calibration)
    held = max(1, round(_HELD * len(images)))
    size = min(_batch_size(opened, images), len(images) - held)
    if fitting is not None:
        fitting.size = size = min(size, fitting.size)
    fitted = images[:-held], images[-held:]
    batches = [
        _padded(part[start : start + size], size, images, held=bool(number))
        for number, part in enumerate(fitted)
        for start in range(0, len(part), size)
    ]
    bench = _record(opened, network, batches, labels, streams=streams)
    bench.kind, bench.names = calibration.kind, calibration.class_names
    return bench


def with_streams(bench: Bench) -> Bench:
    """Record the run again, and find what can be cut if residual streams are cut, too."""
    made = _record(bench.opened, bench.network, bench.batches, bench.labels, streams=True)
    made.kind, made.names = bench.kind, bench.names
    return made


def _record(
    opened: OpenedModel,
    network: nn.Module,
    batches: list[Batch],
    labels: Tensor | None,
    *,
    streams: bool,
) -> Bench:
    settled = not any(read.depends for read in opened.graph.trace.reads)
    # Channels last: convolutions run faster, and what they read is copied faster.
    last = [replace(batch, images=_channels_last(batch.images)) for batch in batches]
    try:
        program = record_program(network, last[0].images, settled=settled)
        batches = last
    except GraphError:  # such as a view of the values of an image in a row
        program = record_program(network, batches[0].images, settled=settled)
    found = survey(opened, program, streams=streams)
    bench = Bench(opened, network, program, found, batches, Intercepts(opened), labels)
    values: Values = {0: batches[0].images}
    with torch.no_grad():
        program.run(values, bench.tensors, keep=program.outputs)
    if program.scores is not None:
        bench._scores_axes = values[program.scores].ndim
    check_values(bench, values)
    return bench


def _channels_last(images: Tensor) -> Tensor:
    if images.ndim != _IMAGE_AXES or images.device.type != "cpu":
        return images
    return images.contiguous(memory_format=torch.channels_last)


def check_values(bench: Bench, values: Values) -> None:
    """Refuse a network whose outputs are not finite; names the first layer that makes such values.

    Raises:
        DataError: it makes values that are not finite.
    """
    if torch.isfinite(bench.outputs(values)).all().tolist():
        return
    again: Values = {0: bench.batches[0].images}
    for name, reader in bench.survey.readers.items():
        at = bench.program.place[reader.step]
        with torch.no_grad():
            bench.program.run(again, bench.tensors, stop=at + 1, keep=[reader.step])
        if not torch.isfinite(again[reader.step]).all():
            raise DataError(f"layer {name} makes values that are not finite on these images")
    raise DataError("the network makes values that are not finite on these images")


def _read(calibration: Calibration) -> tuple[Tensor, Tensor | None]:
    images, labels, total = [], [], 0
    for batch, known in calibration.labelled_batches():
        images.append(batch)
        labels.append(known)
        total += len(batch)
        if total >= LARGEST:
            break
    if total < _FEWEST:
        raise DataError(
            f"{total} images are too few to fit layers on; give at least {_FEWEST}, "
            "better some hundreds"
        )
    found = torch.cat(labels)[:LARGEST]
    missing = calibration.kind == CLASSES and bool((found < 0).any())
    return torch.cat(images)[:LARGEST], None if missing else found


def _batch_size(opened: OpenedModel, images: Tensor) -> int:
    """Choose a batch whose values fit into some memory at once."""
    numbers = sum(
        prod(seen.shape) for record in opened.graph.trace.records for seen in record.results
    )
    # Networks are traced at their own size; the images may have another one.
    numbers = int(numbers * images[0].numel() / opened.graph.image[0].numel())
    return max(2, min(_BATCH, _BATCH_BYTES // max(1, 4 * numbers)))


def _padded(images: Tensor, size: int, others: Tensor, *, held: bool) -> Batch:
    count = len(images)
    if count < size:
        filler = others[: size - count]
        while len(images) < size:
            images = torch.cat([images, filler[: size - len(images)]])
    return Batch(images, count, held)


def divergence(bench: Bench, expected: Tensor, found: Tensor, temperature: float = 1.0) -> Tensor:
    """Give how far outputs are from what they were, image by image, ``(images,)``.

    The Kullback-Leibler divergence of the classes' probabilities, or, where the outputs are no
    class scores, the squared error relative to their variance.
    """
    if bench.classifies:
        return class_divergence(expected.double() / temperature, found.double() / temperature)
    return relative_error(expected.double().flatten(1), found.double().flatten(1))


def groups_alive(bench: Bench) -> np.ndarray:
    """Give a mask of all groups, all alive."""
    return np.ones(len(bench.opened.graph.groups), bool)


def each_batch(bench: Bench, *, held: bool) -> Iterator[tuple[int, Batch]]:
    """Give the batches that are held out, or the others, with their numbers."""
    for number, batch in every_batch(bench):
        if batch.held == held:
            yield number, batch


def every_batch(bench: Bench) -> Iterator[tuple[int, Batch]]:
    """Give all batches with their numbers.

    Rows that are kept lie between values that are freed, and hold their pages; every few batches
    these are given back.
    """
    for number, batch in enumerate(bench.batches):
        yield number, batch
        if number % _TIDY == _TIDY - 1:
            give_back_memory()
