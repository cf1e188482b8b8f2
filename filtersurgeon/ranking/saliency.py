"""Saliency of kernels: how much the true class's output depends on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.data.kinds import CLASSES, IGNORED, MASKS, MULTILABEL
from filtersurgeon.errors import DataError, LayerError, OptionError
from filtersurgeon.learn.scores import check_scores, enlarge
from filtersurgeon.networks.devices import FittingBatches, find_device
from filtersurgeon.networks.outputs import class_scores, pixel_scores

if TYPE_CHECKING:
    import torch
    from torch import nn

Sums = dict[str, np.ndarray]
Slopes = tuple["torch.Tensor | None", ...]


@dataclass(frozen=True)
class SaliencySettings:
    """What is summed, and where.

    Attributes:
        batch_size: images per minibatch, a part of the definition: within a minibatch gradients
            may cancel, between minibatches they cannot. The paper's is 4.
        gradient: leave the factor of the weight out (section 3.3 of the paper).
        rescale: divide the true class's output by its own value, taken as a constant, so that
            every image counts alike. An output of exactly zero is not divided.
        target: the index of the output whose gradient is taken in place of the true class's.
        workers: processes that read images ahead.
        device: torch's name of the device; ``auto`` is a GPU if there is one.

    Raises:
        OptionError: a minibatch without images.
    """

    batch_size: int = 4
    gradient: bool = False
    rescale: bool = True
    workers: int = 0
    device: str = "auto"
    target: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise OptionError(f"batch_size={self.batch_size} should be at least 1")


def saliency(
    model: nn.Module,
    data: LabelledImages,
    weights: Mapping[str, str],
    settings: SaliencySettings = SaliencySettings(),
) -> Iterator[tuple[int, Sums]]:
    """Yield what every minibatch adds to the saliency of every kernel.

    For minibatches ``M`` of images x with true class y, the saliency of a kernel f is
    ``sum_M sum_positions |sum_(x, y in M) d(output_y / constant) / df * f|``.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Eq. 4.

    With several labels, y are the classes known to be true, whose outputs are added. With masks,
    output_y is the mean over the pixels that count of the output of each pixel's class; of one
    output alone, over the pixels of class 1. Smaller maps are enlarged bilinearly. With a target,
    it is that output, for every image; for masks its mean over all pixels that count.

    The network runs in the mode that it is in, in float32 without shortened products. Besides the
    network, memory holds one gradient of these weights, whatever the number of images. The gradient
    of a minibatch that does not fit into memory is summed over halves of it.

    Args:
        model: takes (images, channels, height, width); its outputs hold class scores.
        data: labelled images; consecutive ones form the minibatches, the last may be smaller.
        weights: name to sum under -> the parameter's name; its first two axes count kernels.
        settings: batch size, variant, device.

    Yields:
        The number of images, and by name an array of float64, one value for each kernel:
        ``(out, in/groups)``, or ``(in, out/groups)`` for a transposed convolution.

    Raises:
        DataError: an unreadable image, or outputs of another shape.
        OutputError: it is not clear which output holds the class scores.
        LayerError: a gradient is not finite.
        OptionError: there is no such device.
        OutOfMemoryError: an image does not fit; or a minibatch, in training mode.
    """
    import torch

    device = find_device(settings.device)
    model.to(device)
    parameters = {name: model.get_parameter(path) for name, path in weights.items()}
    loader = make_loader(data, settings.batch_size, settings.workers)
    read = pixel_scores if data.kind == MASKS else class_scores

    def differentiate(images: torch.Tensor, labels: torch.Tensor) -> Slopes:
        scores = read(model(images.to(device)))
        if data.kind == MASKS:
            scores = enlarge(scores, images.shape[2:])
        if data.kind == CLASSES and settings.target is None:
            _check_classes(scores, labels)
        true = _true_outputs(scores, labels.to(device), data.kind, settings.target)
        if settings.rescale:
            value = true.detach()
            true = true / value.where(value != 0, value.new_ones(()))
        return torch.autograd.grad(true.sum(), list(parameters.values()), allow_unused=True)

    # In training mode, the images of a minibatch depend on one another.
    least = settings.batch_size if model.training else 1
    note = ", whose gradients are added"
    fitting = FittingBatches(settings.batch_size, least=least, note=note)
    with _differentiable(model, parameters):
        for images, labels in batches(loader):
            rows = torch.arange(len(labels))
            parts = fitting.run(lambda k: differentiate(images[k], labels[k]), rows)  # noqa: B023
            slopes = _add_up(found for found, _ in parts)
            yield len(labels), _kernel_sums(slopes, parameters, settings.gradient)


def _check_classes(outputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse labels that are no outputs; they are on the CPU, so that nothing waits for a GPU."""
    if outputs.shape[1] <= int(labels.max()):
        raise DataError(
            f"the network gives outputs of shape {tuple(outputs.shape)}, "
            f"which have no class {int(labels.max())}"
        )


def _true_outputs(
    outputs: torch.Tensor, labels: torch.Tensor, kind: str, target: int | None
) -> torch.Tensor:
    """Take the outputs of the true classes, ``(images,)``, or ``(true labels,)``; or the target."""
    check_scores(outputs, labels, kind)
    if kind == MASKS:
        return _pixel_outputs(outputs, labels, target)
    if target is not None:
        return outputs[:, target]
    if kind == MULTILABEL:
        return outputs[labels == 1]
    return outputs.gather(1, labels[:, None]).squeeze(1)


def _pixel_outputs(outputs: torch.Tensor, masks: torch.Tensor, target: int | None) -> torch.Tensor:
    """Average over the pixels the outputs of their classes, or the target, ``(images,)``."""
    counted = masks != IGNORED
    if target is not None:
        chosen = outputs[:, target]
    elif outputs.shape[1] == 1:
        chosen, counted = outputs[:, 0], masks == 1
    else:
        chosen = outputs.gather(1, masks.clamp(min=0)[:, None])[:, 0]
    total = chosen.where(counted, 0.0).sum((1, 2))
    return total / counted.sum((1, 2)).clamp(min=1)


def _add_up(parts: Iterable[Slopes]) -> Slopes:
    """Add the gradients of parts of a minibatch; None where no output depends on a weight."""
    first, *rest = parts
    for part in rest:
        first = tuple(
            b if a is None else a if b is None else a + b for a, b in zip(first, part, strict=True)
        )
    return first


def _kernel_sums(found: Slopes, parameters: Mapping[str, torch.Tensor], gradient: bool) -> Sums:
    """Sum magnitudes of gradients, or of their products, over the positions of each kernel."""
    sums = {}
    for (name, weight), slope in zip(parameters.items(), found, strict=True):
        if slope is None:  # the outputs do not depend on this layer
            sums[name] = np.zeros(weight.shape[:2])
            continue
        product = slope if gradient else slope * weight.detach()
        # A linear layer's weight has no positions.
        added = product.abs().reshape(*weight.shape[:2], -1).cpu().double().sum(2).numpy()
        if not np.isfinite(added).all():
            raise LayerError(
                f"layer {name}: the gradient of the outputs is NaN or infinite; "
                f"leave the layer out with `layers` '!{name}', or repair the checkpoint"
            )
        sums[name] = added
    return sums


@contextmanager
def _differentiable(model: nn.Module, parameters: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Differentiate by these parameters alone, in exact float32, inside the block."""
    import torch

    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.requires_grad_(False)
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    try:
        with (
            torch.enable_grad(),
            torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ),
        ):
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])
