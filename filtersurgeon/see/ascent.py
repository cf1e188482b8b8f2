"""Gradient ascent on images, many units side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import OptionError
from filtersurgeon.networks.modules.rectifiers.kinds import KINDS, check_kind
from filtersurgeon.networks.seeding import mix
from filtersurgeon.see.layers import output_of
from filtersurgeon.see.random_transforms import RandomTransforms, check_regularizer

if TYPE_CHECKING:
    from torch import Tensor, nn

_GREY, _NOISE = 0.5, 0.05
Watch = Callable[[int, "Tensor"], None]


@dataclass(frozen=True)
class AscentSettings:
    """How images are optimised.

    Attributes:
        steps: of gradient ascent.
        step_size: length of a step; None for 25 on images of 3x224x224, and as much per pixel's
            root on others.
        activation: ``relu`` takes the network's own gradient, ``leaky-relu`` that of the network
            with leaking rectifiers, ``proxygrad`` leaks in the backward pass only.
        slope: below zero, of the latter two.
        regularize: ``none``, ``weak`` or ``full``, see :class:`RandomTransforms`.
        seed: of the noise that images begin with, and of the regularizer.
    """

    steps: int = 256
    step_size: float | None = None
    activation: str = "relu"
    slope: float = 0.075
    regularize: str = "full"
    seed: int = 0

    def check(self) -> None:
        """Refuse settings that cannot work; raises OptionError."""
        check_kind(self.activation, self.slope)
        check_regularizer(self.regularize)
        if self.steps < 1:
            raise OptionError(f"steps must be at least 1, not {self.steps}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise OptionError(f"step size must be positive, not {self.step_size:g}")

    def length(self, size: Sequence[int]) -> float:
        """Give the length of a step on images of (channels, height, width)."""
        pixels = float(np.prod(size))
        return self.step_size or 25 * (pixels / (3 * 224 * 224)) ** 0.5


def first_images(
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], seeds: Sequence[int]
) -> Tensor:
    """Make normalised images of Gaussian noise on grey, one per seed."""
    import torch

    noise = [np.random.default_rng([seed, 0]).standard_normal(tuple(size)) for seed in seeds]
    pixels = _GREY + _NOISE * np.stack(noise)
    normalised = (pixels - np.reshape(mean, (-1, 1, 1))) / np.reshape(std, (-1, 1, 1))
    return torch.from_numpy(normalised.astype(np.float32))


def objective(model: nn.Module, layer: str, units: Sequence[int], images: Tensor) -> Tensor:
    """Give each image's mean activation ``(n,)`` of its own unit of a layer."""
    output = output_of(model, layer, images)
    own = output[range(len(units)), list(units)]
    return own.reshape(len(units), -1).mean(1)


def ascend(
    model: nn.Module,
    layer: str,
    units: Sequence[int],
    images: Tensor,
    settings: AscentSettings,
    watch: Watch | None = None,
) -> Tensor:
    """Change images so that they excite their units.

    Source: Linse, 2025, Eq. 5.1: ``x <- R(x + mu grad / |grad|_2)``.

    Args:
        model: in evaluation mode.
        layer: a module's name.
        units: one channel per image.
        images: where to begin, ``(n, channels, height, width)``, normalised.
        settings: how.
        watch: told the step, counted from 1, and the images after it.

    Returns:
        The optimised images.

    Raises:
        ArchitectureError: the network has no rectifier that could leak.
    """
    import torch

    seeds = [mix(settings.seed, unit, 1) for unit in units]
    regularize = RandomTransforms(settings.regularize, seeds)
    length = settings.length(images.shape[1:])
    x = images
    for step in range(1, settings.steps + 1):
        x = x.detach().requires_grad_()
        with leaking(settings) as mode:
            total = objective(model, layer, units, x).sum()
        gradient = torch.autograd.grad(total, x)[0]
        if mode is not None and step == 1:
            _check_met(mode, layer)
        norms = gradient.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
        with torch.no_grad():
            x = regularize(x + length * gradient / norms)
            if watch is not None:
                watch(step, x)
    return x.detach()


def leaking(settings: AscentSettings) -> AbstractContextManager[Any]:
    """Give the context in which the gradient is taken; it yields None for the network's own."""
    from filtersurgeon.networks.modules.rectifiers.swap import rectified

    if settings.activation == KINDS[0]:
        return nullcontext()
    return rectified(settings.activation, settings.slope)


def _check_met(mode: Any, layer: str) -> None:
    from filtersurgeon.networks.modules.rectifiers.swap import check_met

    check_met(mode, f"the network below {layer}")
