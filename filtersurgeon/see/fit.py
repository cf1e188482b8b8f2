"""How well decoded filters predict the activations of their units on images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.errors import DataError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.networks import Network
from filtersurgeon.networks.devices import FittingBatches, find_device, move_like
from filtersurgeon.see.layers import output_of

if TYPE_CHECKING:
    from torch import Tensor

    from filtersurgeon.see.decoding import Decoded
    from filtersurgeon.see.linearise import Canvas


@dataclass(frozen=True)
class Fit:
    """What was measured of one layer.

    Attributes:
        error: Eq. 3: the mean over images of the mean squared difference between the units'
            responses and those of their decoded filters, each image's responses scaled to 0..1.
        error_deviation: standard deviation of that over images.
        correlation: the mean over images of Pearson's correlation between the units' responses and
            those of their decoded filters.
        n_images: number of images.
        accuracy: how often the decoded filter of the true class has the highest score, 0 to 1,
            after subtracting the mean image; None unless the units are all the classes.
        accuracy_uncentred: the same without taking the mean off.
        top_network: ``(n units, top)`` positions of the images with the highest activation.
        top_decoded: the same for the decoded filter.
        responses: ``(n units,)`` the highest activation of each unit on the images.
    """

    error: float
    error_deviation: float
    correlation: float
    n_images: int
    accuracy: float | None
    accuracy_uncentred: float | None
    top_network: np.ndarray
    top_decoded: np.ndarray
    responses: np.ndarray

    def to_json(self) -> dict[str, Any]:
        """Give what was measured as it stands in the JSON of a decoding."""
        return {
            "error": self.error,
            "error_deviation": self.error_deviation,
            "correlation": self.correlation,
            "images": self.n_images,
            "accuracy": self.accuracy,
            "accuracy_uncentred": self.accuracy_uncentred,
            "top_network": self.top_network.tolist(),
            "top_decoded": self.top_decoded.tolist(),
            "responses": self.responses.tolist(),
        }


def measure_fit(
    network: Network,
    canvas: Canvas,
    decoded: Decoded,
    images: LabelledImages,
    settings: EvaluationSettings,
    top: int = 0,
    tell: Callable[[int], None] | None = None,
) -> Fit:
    """Compare units and decoded filters on images.

    Source: Rafegas and Vanrell, 2015, Eq. 3 and Table 1. Responses of one image are scaled
    together, over all its units and positions. Taking the mean image off, as the paper's network
    does with its input, is the same as a bias per filter that balances the filters' answers.

    Args:
        network: whose units they are.
        canvas: what the filters were decoded on.
        decoded: the filters.
        images: what to look at.
        settings: batch size, and the device, which is the canvas's.
        top: so many images of the greatest responses.
        tell: told images done.
    """
    score = _Score(top, canvas.whole and canvas.channels == len(decoded.units) == network.n_classes)

    def answer(batch: Tensor) -> tuple[Tensor, Tensor]:
        own, predicted = respond(network, canvas, decoded, batch)
        return _in_rows(own), _in_rows(predicted)

    fitting = FittingBatches(settings.batch_size)
    for batch, labels in batches(make_loader(images, settings.batch_size, settings.workers)):
        for (own, predicted), _, true in fitting.run(answer, batch, labels):
            score.add(own, predicted, true)
        if tell:
            tell(score.seen)
    network.model.float()
    return score.result()


def respond(
    network: Network, canvas: Canvas, decoded: Decoded, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the responses of units, and those of their decoded filters.

    The network is moved to the canvas's device and type, and stays there.

    Args:
        network: whose units they are.
        canvas: what the filters were decoded on.
        decoded: the filters.
        images: ``(images, channels, height, width)``, as the network expects them.

    Returns:
        Both ``(images, units, ...)``, with the positions of the layer's map where it has one.
    """
    import torch

    parameter = next(canvas.network.parameters())
    model = network.model.to(parameter)
    pictures = images.to(parameter)
    units = torch.tensor(decoded.units, device=parameter.device)
    with torch.no_grad():
        own = output_of(model, canvas.layer, pictures)[:, units]
    if canvas.exact:
        filters = torch.from_numpy(decoded.filters).to(parameter)
        return own, _slide(pictures, filters, canvas.stride, own.shape[2:])
    answers = (
        output_of(canvas.network, canvas.layer, x).detach()
        for x in (pictures, torch.zeros_like(pictures[:1]))
    )
    return own, (next(answers) - next(answers))[:, units]


def highest_responses(
    network: Network,
    layer: str,
    images: LabelledImages,
    settings: EvaluationSettings,
    tell: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Give the highest activation of each unit of a layer, over images and positions.

    Args:
        network: whose units they are.
        layer: the module's name.
        images: what to look at.
        settings: batch size and device.
        tell: told images done.

    Returns:
        ``(units,)`` float64.
    """
    import torch

    model = network.model.to(find_device(settings.device))
    highest: np.ndarray | None = None
    seen = 0
    fitting = FittingBatches(settings.batch_size)

    def respond_most(batch: Tensor) -> np.ndarray:
        with torch.no_grad():
            own = _in_rows(output_of(model, layer, move_like(batch, model)))
            most: np.ndarray = own.amax((0, 2)).cpu().double().numpy()
            return most

    for batch, _ in batches(make_loader(images, settings.batch_size, settings.workers)):
        for part, _ in fitting.run(respond_most, batch):
            highest = part if highest is None else np.maximum(highest, part)
        seen += len(batch)
        if tell:
            tell(seen)
    if highest is None:
        raise DataError("there are no images to measure responses on")
    return highest


def _slide(images: Tensor, filters: Tensor, stride: tuple[int, int], size: Any) -> Tensor:
    """Correlate images with filters at the units' positions; what lies outside is zero."""
    from torch.nn import functional

    pads: list[int] = []
    for axis in (1, 0):
        window, length = filters.shape[axis + 2], images.shape[axis + 2]
        missing = stride[axis] * (size[axis] - 1) + window - length
        pads += [missing // 2, missing - missing // 2]
    return functional.conv2d(functional.pad(images, pads), filters, stride=stride)


@dataclass
class _Score:
    """Sums over the images seen so far."""

    top: int
    classes: bool
    errors: list[float] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)
    peaks: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    seen: int = 0

    def add(self, own: Tensor, predicted: Tensor, labels: Tensor) -> None:
        """Count a batch: responses ``(images, units, positions)`` and labels."""
        difference = _contrast(own) - _contrast(predicted)
        self.errors += difference.square().mean((1, 2)).tolist()
        self.correlations += _correlation(own, predicted).tolist()
        self.peaks.append((own.amax(2).cpu().numpy(), predicted.amax(2).cpu().numpy()))
        self.labels += labels.tolist()
        self.seen += len(own)

    def result(self) -> Fit:
        """Give the mean and the best images."""
        own, predicted = (np.concatenate(peaks) for peaks in zip(*self.peaks, strict=True))
        rights: list[float | None] = [None, None]
        if self.classes:
            answers = (predicted - predicted.mean(0), predicted)
            rights = [float((a.argmax(1) == self.labels).mean()) for a in answers]
        firsts = [
            np.argsort(-peaks, axis=0, kind="stable")[: self.top].T for peaks in (own, predicted)
        ]
        return Fit(
            float(np.mean(self.errors)),
            float(np.std(self.errors)),
            float(np.mean(self.correlations)),
            self.seen,
            rights[0],
            rights[1],
            firsts[0],
            firsts[1],
            own.max(0),
        )


def _in_rows(responses: Tensor) -> Tensor:
    """Give responses as (images, units, positions)."""
    return responses.reshape(*responses.shape[:2], -1)


def _contrast(responses: Tensor) -> Tensor:
    """Scale each image's responses ``(images, units, positions)`` to 0..1."""
    low, high = responses.amin((1, 2), keepdim=True), responses.amax((1, 2), keepdim=True)
    return (responses - low) / (high - low).clamp(min=1e-30)


def _correlation(own: Tensor, predicted: Tensor) -> Tensor:
    """Give Pearson's correlation ``(images,)`` of responses ``(images, units, positions)``."""
    a, b = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (own, predicted))
    lengths = (a.norm(dim=1) * b.norm(dim=1)).clamp(min=1e-30)
    return (a * b).sum(1) / lengths
