"""Settings of activation maximisation, and gradient ascent on the pixels of images.

The ascent on pixels is that of Linse, 2025; that on Fourier coefficients, the default of
``maximize``, is in ``growing.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import OptionError
from filtersurgeon.networks.devices import mix
from filtersurgeon.networks.modules.rectifier_kinds import KINDS, check_kind
from filtersurgeon.see.layers import output_of
from filtersurgeon.see.random_transforms import (
    RandomTransforms,
    check_regularizer,
    read_transforms,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

_GREY, _NOISE = 0.5, 0.05
_STEPS, _STEPS_ON_PIXELS = 156, 256
Watch = Callable[[int, "Tensor"], None]


@dataclass(frozen=True)
class AscentSettings:
    """Settings of activation maximisation.

    Attributes:
        steps: of gradient ascent; None for 156, or 256 on pixels.
        step_size: None for 0.017 of the coefficients' scale, which decays to a twentieth. On
            pixels: length of a step, which stays; None for 25 on images of 3x224x224, and as much
            per pixel's root on others.
        activation: ``relu`` takes the network's own gradient, ``leaky-relu`` that of the network
            with leaking rectifiers, ``proxygrad`` leaks in the backward pass only.
        slope: below zero, of the latter two.
        regularize: ``natural``: Fourier coefficients of images that grow, with priors, see
            :func:`~filtersurgeon.see.growing.grow`. ``full``, ``weak`` or ``none``: pixels, with
            the transforms of :class:`~filtersurgeon.see.random_transforms.RandomTransforms`.
        seed: of the noise that images begin with, and of the regularizer.
        transforms: with ``full``: which of its seven transforms, such as ``blur,roll``; None for
            all.
        diversity: with ``natural``: weight of the penalty on similar images of one unit.
    """

    steps: int | None = None
    step_size: float | None = None
    activation: str = "relu"
    slope: float = 0.075
    regularize: str = "natural"
    seed: int = 0
    transforms: str | None = None
    diversity: float = 1.0

    @property
    def natural(self) -> bool:
        """Whether Fourier coefficients are optimised, not pixels."""
        return self.regularize == "natural"

    @property
    def count(self) -> int:
        """Number of steps."""
        return self.steps or (_STEPS if self.natural else _STEPS_ON_PIXELS)

    def check(self) -> None:
        """Refuse settings that cannot work; raises OptionError."""
        check_kind(self.activation, self.slope)
        check_regularizer(self.regularize)
        read_transforms(self.transforms)
        if self.transforms is not None and self.regularize != "full":
            raise OptionError("`transforms` are those of `regularize='full'`")
        if self.steps is not None and self.steps < 1:
            raise OptionError(f"steps must be at least 1, not {self.steps}")
        if self.step_size is not None and not 0 < self.step_size < float("inf"):
            raise OptionError(f"step size must be positive, not {self.step_size:g}")
        if not 0 <= self.diversity < float("inf"):
            raise OptionError(f"diversity must be 0 or more, not {self.diversity:g}")

    def length(self, size: Sequence[int]) -> float:
        """Give the length of a step on pixels of images of (channels, height, width)."""
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
    """Change the pixels of images so that they excite their units.

    Source: Linse, 2025, Eq. 5.1: ``x <- R(x + mu grad / |grad|_2)``.

    Args:
        model: in evaluation mode.
        layer: a module's name.
        units: one channel per image.
        images: where to begin, ``(n, channels, height, width)``, normalised.
        settings: how; ``natural`` is taken as ``full``.
        watch: told the step, counted from 1, and the images after it.

    Returns:
        The optimised images.

    Raises:
        ArchitectureError: the network has no rectifier that could leak.
    """
    import torch

    seeds = [mix(settings.seed, unit, 1) for unit in units]
    name = "full" if settings.natural else settings.regularize
    regularize = RandomTransforms(name, seeds, settings.transforms)
    length = settings.length(images.shape[1:])
    x, steps = images, settings.steps or _STEPS_ON_PIXELS
    for step in range(1, steps + 1):
        x = x.detach().requires_grad_()
        with leaking(settings) as mode:
            total = objective(model, layer, units, x).sum()
        gradient = torch.autograd.grad(total, x)[0]
        if mode is not None and step == 1:
            check_leaks(mode, layer)
        norms = gradient.flatten(1).norm(dim=1).clamp(min=1e-30).view(-1, 1, 1, 1)
        with torch.no_grad():
            x = regularize(x + length * gradient / norms)
            if watch is not None:
                watch(step, x)
    return x.detach()


def leaking(settings: AscentSettings) -> AbstractContextManager[Any]:
    """Give the context in which the gradient is taken; it yields None for the network's own."""
    from filtersurgeon.networks.modules.rectifiers import rectified

    if settings.activation == KINDS[0]:
        return nullcontext()
    return rectified(settings.activation, settings.slope)


def check_leaks(mode: Any, layer: str) -> None:
    """Refuse a gradient that met no rectifier; raises ArchitectureError."""
    from filtersurgeon.networks.modules.rectifiers import check_met

    check_met(mode, f"the network below {layer}")
