"""Small random transforms that keep generated images natural, with one generator per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.errors import OptionError, near_misses

if TYPE_CHECKING:
    from torch import Tensor

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
            return blurred(turned(images, self._draw(-1, 1), self._ones()), self._draw(0, 0.5))
        from torch.nn import functional

        padded = functional.pad(images, [_PADDING] * 4)
        angles = self._sometimes(0.3, 1, 10) * self._signs()
        padded = turned(padded, angles, 1 + self._sometimes(0.05, 0, 0.05))
        padded = blurred(padded, self._draw(0, 0.5))
        cropped = padded[..., _PADDING:-_PADDING, _PADDING:-_PADDING]
        steps = [np.ceil(self._sometimes(0.3, 0, 5)) * self._signs() for _ in range(2)]
        return towards_data(rolled(cropped, *steps))

    def _ones(self) -> np.ndarray:
        return np.ones(len(self.chances))

    def _draw(self, low: float, high: float) -> np.ndarray:
        return np.array([chance.uniform(low, high) for chance in self.chances])

    def _signs(self) -> np.ndarray:
        return np.sign(self._draw(-1, 1))

    def _sometimes(self, probability: float, low: float, high: float) -> np.ndarray:
        """Draw between two numbers with a probability, else give 0."""
        return np.where(self._draw(0, 1) < probability, self._draw(low, high), 0.0)


def turned(images: Tensor, degrees: np.ndarray, factors: np.ndarray) -> Tensor:
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


def blurred(images: Tensor, deviations: np.ndarray) -> Tensor:
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


def rolled(images: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Roll each image by whole pixels, ``(n,)`` each."""
    import torch

    moved = zip(images, rows.astype(int), columns.astype(int), strict=True)
    return torch.stack([torch.roll(x, (int(r), int(c)), (-2, -1)) for x, r, c in moved])


def towards_data(images: Tensor) -> Tensor:
    """Move each image's channels 5 % of the way to mean 0 and deviation 1."""
    mean = images.mean((-2, -1), keepdim=True)
    deviation = images.std((-2, -1), keepdim=True).clamp(min=1e-6)
    return (1 - _BLEND) * images + _BLEND * (images - mean) / deviation
