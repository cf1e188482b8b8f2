"""Random transforms of images between or before the steps of an optimisation.

Each image has its own generator, so that it does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.errors import OptionError, near_misses

if TYPE_CHECKING:
    from torch import Tensor

STEPS = ("padding", "rotation", "scaling", "blur", "crop", "roll", "distribution")
"""The seven transforms of Linse, 2025, section 4.1.5, in their order."""
REGULARIZERS = ("natural", "full", "weak", "none")
_PADDING, _BLEND = 10, 0.05
_ANGLE, _ZOOM, _SHIFT = 10.0, (0.9, 1.35), 0.08


def check_regularizer(name: str) -> None:
    """Refuse an unknown regularizer; raises OptionError with the near misses."""
    if name not in REGULARIZERS:
        raise OptionError(f"regularize {name!r} is unknown{near_misses(name, REGULARIZERS)}")


def read_transforms(text: str | None) -> tuple[str, ...]:
    """Read a list of the seven transforms, such as ``blur,roll``; None means all of them.

    Raises:
        OptionError: one is unknown, or an image would grow or shrink with every step.
    """
    if text is None:
        return STEPS
    chosen = tuple(word.strip() for word in text.split(","))
    unknown = next((word for word in chosen if word not in STEPS), None)
    if unknown is not None:
        raise OptionError(f"transform {unknown!r} is unknown{near_misses(unknown, STEPS)}")
    if ("padding" in chosen) != ("crop" in chosen):
        raise OptionError("`transforms` should name both of padding and crop, or neither")
    return chosen


class _Chances:
    """Random numbers of several images, each with its own generator."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.chances = [np.random.default_rng(seed) for seed in seeds]

    def _draw(self, low: float, high: float) -> np.ndarray:
        return np.array([chance.uniform(low, high) for chance in self.chances])

    def _signs(self) -> np.ndarray:
        return np.sign(self._draw(-1, 1))

    def _sometimes(self, probability: float, low: float, high: float) -> np.ndarray:
        """Draw between two values with a probability, else give 0."""
        return np.where(self._draw(0, 1) < probability, self._draw(low, high), 0.0)


class RandomViews(_Chances):
    """Views of images: rotated by up to 10 degrees, enlarged by 0.9 to 1.35, shifted by up to 8 %.

    What comes in from outside is the image mirrored at its border. A network that recognises
    many such views of an image answers to more than the pattern of single pixels (Mordvintsev
    et al., 2015; Olah et al., 2017).

    Args:
        seeds: one per image.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Give one view of each image ``(n, channels, height, width)``."""
        angles = self._draw(-_ANGLE, _ANGLE)
        factors = np.exp(self._draw(*np.log(_ZOOM)))
        shifts = np.stack([self._draw(-_SHIFT, _SHIFT) for _ in range(2)])
        return place(images, angles, factors, 2 * shifts, mirror=True)


class RandomTransforms(_Chances):
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
        transforms: which of the seven, such as ``blur,roll``, see :func:`read_transforms`.
    """

    def __init__(self, name: str, seeds: Sequence[int], transforms: str | None = None) -> None:
        check_regularizer(name)
        super().__init__(seeds)
        self.name, self.chosen = name, read_transforms(transforms)

    def __call__(self, images: Tensor) -> Tensor:
        """Change normalised images ``(images, channels, height, width)`` by one step."""
        if self.name == "none":
            return images
        if self.name == "weak":
            return blur(rotate(images, self._draw(-1, 1), self._ones()), self._draw(0, 0.5))
        from torch.nn import functional

        # Every number is drawn, so that the others do not depend on which transforms are used.
        angles = self._sometimes(0.3, 1, 10) * self._signs() * ("rotation" in self.chosen)
        factors = 1 + self._sometimes(0.05, 0, 0.05) * ("scaling" in self.chosen)
        deviations = self._draw(0, 0.5)
        steps = [np.ceil(self._sometimes(0.3, 0, 5)) * self._signs() for _ in range(2)]
        edge = _PADDING if "padding" in self.chosen else 0
        images = rotate(functional.pad(images, [edge] * 4), angles, factors)
        if "blur" in self.chosen:
            images = blur(images, deviations)
        if edge:
            images = images[..., edge:-edge, edge:-edge]
        if "roll" in self.chosen:
            images = roll(images, *steps)
        return towards_data(images) if "distribution" in self.chosen else images

    def _ones(self) -> np.ndarray:
        return np.ones(len(self.chances))


def rotate(images: Tensor, degrees: np.ndarray, factors: np.ndarray) -> Tensor:
    """Rotate and enlarge each image about its middle; what comes in from outside is zero.

    Args:
        images: ``(n, channels, height, width)``.
        degrees: ``(n,)``, anticlockwise.
        factors: ``(n,)``.
    """
    moved = np.flatnonzero((degrees != 0) | (factors != 1))
    if not len(moved):
        return images
    result = images.clone()
    result[moved] = place(images[moved], degrees[moved], factors[moved], np.zeros((2, len(moved))))
    return result


def place(
    images: Tensor,
    degrees: np.ndarray,
    factors: np.ndarray,
    shifts: np.ndarray,
    mirror: bool = False,
) -> Tensor:
    """Rotate, enlarge and shift each image.

    Args:
        images: ``(n, channels, height, width)``.
        degrees: ``(n,)``, anticlockwise.
        factors: ``(n,)``.
        shifts: ``(2, n)``, to the left and up, in half sides of the image.
        mirror: what comes in from outside is the image mirrored at its border; else it is zero.
    """
    import torch
    from torch.nn import functional

    height, width = images.shape[-2:]
    angles, scale = np.radians(degrees), 1 / factors
    cosine, sine = np.cos(angles) * scale, np.sin(angles) * scale
    rows = [
        [cosine, -sine * height / width, shifts[0]],
        [sine * width / height, cosine, shifts[1]],
    ]
    matrices = torch.tensor(np.array(rows).transpose(2, 0, 1)).to(images)
    grid = functional.affine_grid(matrices, list(images.shape), align_corners=False)
    outside = "reflection" if mirror else "zeros"
    return functional.grid_sample(images, grid, padding_mode=outside, align_corners=False)


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
