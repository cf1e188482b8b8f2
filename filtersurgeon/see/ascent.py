"""Gradient ascent on images, many units side by side.

Small random transforms keep the generated images natural, with one generator per image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.networks.devices import mix
from filtersurgeon.networks.modules.rectifier_kinds import KINDS, check_kind
from filtersurgeon.see.layers import output_of

if TYPE_CHECKING:
    from torch import Tensor, nn

REGULARIZERS = ("none", "weak", "full")
_PADDING, _BLEND = 10, 0.05


def check_regularizer(name: str) -> None:
    """Refuse an unknown regularizer; raises OptionError with the near misses."""
    if name not in REGULARIZERS:
        raise OptionError(f"regularize {name!r} is unknown{near_misses(name, REGULARIZERS)}")


class RandomTransforms:
    """Random transforms of images between the steps of an optimisation.

    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025. ``full``: the seven transforms of section 4.1.5 (padding by 10 pixels,
    rotation by 1 to 10 degrees with probability 0.3, scaling by 1 to 1.05 with 0.05, blur of
    deviation 0 to 0.5, cropping, rolling by 1 to 5 pixels with 0.3, and a step of 5 % towards the
    data's mean and deviation). ``weak``: blur and small rotations as in section 5.3, whose sizes
    are not published: here a deviation of 0 to 0.5, and up to one degree. ``none``: nothing.

    Args:
        name: ``none``, ``weak`` or ``full``.
        seeds: one per image, so that an image does not depend on its neighbours in a batch.
    """

    def __init__(self, name: str, seeds: Sequence[int]) -> None:
        check_regularizer(name)
        self.name = name
        self.chances = [np.random.default_rng(seed) for seed in seeds]

    def __call__(self, images: Tensor) -> Tensor:
        """Change normalised images ``(images, channels, height, width)`` by one step."""
        if self.name == "none":
            return images
        if self.name == "weak":
            return blur(rotate(images, self._draw(-1, 1), self._ones()), self._draw(0, 0.5))
        from torch.nn import functional

        padded = functional.pad(images, [_PADDING] * 4)
        angles = self._sometimes(0.3, 1, 10) * self._signs()
        padded = rotate(padded, angles, 1 + self._sometimes(0.05, 0, 0.05))
        padded = blur(padded, self._draw(0, 0.5))
        cropped = padded[..., _PADDING:-_PADDING, _PADDING:-_PADDING]
        steps = [np.ceil(self._sometimes(0.3, 0, 5)) * self._signs() for _ in range(2)]
        return towards_data(roll(cropped, *steps))

    def _ones(self) -> np.ndarray:
        return np.ones(len(self.chances))

    def _draw(self, low: float, high: float) -> np.ndarray:
        return np.array([chance.uniform(low, high) for chance in self.chances])

    def _signs(self) -> np.ndarray:
        return np.sign(self._draw(-1, 1))

    def _sometimes(self, probability: float, low: float, high: float) -> np.ndarray:
        """Draw between two values with a probability, else give 0."""
        return np.where(self._draw(0, 1) < probability, self._draw(low, high), 0.0)


def rotate(images: Tensor, degrees: np.ndarray, factors: np.ndarray) -> Tensor:
    """Rotate and enlarge each image about its middle; what comes in from outside is zero.

    Args:
        images: ``(n, channels, height, width)``.
        degrees: ``(n,)``, anticlockwise.
        factors: ``(n,)``.
    """
    import torch
    from torch.nn import functional

    moved = np.flatnonzero((degrees != 0) | (factors != 1))
    if not len(moved):
        return images
    part = images[moved]
    height, width = images.shape[-2:]
    angles, scale = np.radians(degrees[moved]), 1 / factors[moved]
    cosine, sine = np.cos(angles) * scale, np.sin(angles) * scale
    rows = [
        [cosine, -sine * height / width, 0 * scale],
        [sine * width / height, cosine, 0 * scale],
    ]
    matrices = torch.tensor(np.array(rows).transpose(2, 0, 1)).to(part)
    grid = functional.affine_grid(matrices, list(part.shape), align_corners=False)
    result = images.clone()
    result[moved] = functional.grid_sample(part, grid, align_corners=False)
    return result


def blur(images: Tensor, deviations: np.ndarray) -> Tensor:
    """Blur each image by a 5x5 Gaussian; the border is repeated.

    Args:
        images: ``(n, channels, height, width)``.
        deviations: ``(n,)`` in pixels.
    """
    import torch
    from torch.nn import functional

    places = np.arange(-2, 3)
    widths = np.maximum(deviations, 1e-3)[:, None]
    lines = np.exp(-0.5 * (places / widths) ** 2)
    lines /= lines.sum(1, keepdims=True)
    n, channels = images.shape[:2]
    kernels = torch.tensor(np.repeat(lines, channels, axis=0)).to(images)
    flat = images.reshape(1, n * channels, *images.shape[2:])
    for shape, pads in (((1, 5), (2, 2, 0, 0)), ((5, 1), (0, 0, 2, 2))):
        weight = kernels.view(-1, 1, *shape)
        flat = functional.conv2d(
            functional.pad(flat, pads, mode="replicate"), weight, groups=n * channels
        )
    return flat.view(images.shape)


def roll(images: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Roll each image by whole pixels, ``(n,)`` each."""
    import torch

    moved = zip(images, rows.astype(int), columns.astype(int), strict=True)
    return torch.stack([torch.roll(x, (int(r), int(c)), (-2, -1)) for x, r, c in moved])


def towards_data(images: Tensor) -> Tensor:
    """Move each image's channels 5 % of the way to mean 0 and deviation 1."""
    mean = images.mean((-2, -1), keepdim=True)
    deviation = images.std((-2, -1), keepdim=True).clamp(min=1e-6)
    return (1 - _BLEND) * images + _BLEND * (images - mean) / deviation


_GREY, _NOISE = 0.5, 0.05
Watch = Callable[[int, "Tensor"], None]


@dataclass(frozen=True)
class AscentSettings:
    """Settings of activation maximisation.

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
    from filtersurgeon.networks.modules.rectifiers import rectified

    if settings.activation == KINDS[0]:
        return nullcontext()
    return rectified(settings.activation, settings.slope)


def _check_met(mode: Any, layer: str) -> None:
    from filtersurgeon.networks.modules.rectifiers import check_met

    check_met(mode, f"the network below {layer}")
