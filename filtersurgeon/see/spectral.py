"""Images as Fourier coefficients of decorrelated colours, and measures of how natural they are.

Sources: Olah, Mordvintsev and Schubert, *Feature Visualization*, Distill, 2017 (decorrelated
colours and Fourier coefficients scaled by frequency); Mahendran and Vedaldi, *Visualizing Deep
Convolutional Neural Networks Using Natural Pre-images*, 2016 (priors on generated images).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

COLOUR_COVARIANCE = (
    (0.0715, 0.0632, 0.0578),
    (0.0632, 0.0685, 0.0651),
    (0.0578, 0.0651, 0.0761),
)
"""Of red, green and blue, 0 to 1, over the pixels of 500 photographs of 500 ImageNet classes."""
NATURAL_SLOPE = (-2.6, 0.3)
"""Mean and deviation of :func:`spectral_slopes` over the same photographs at 224x224."""
_POWER = 1.3
"""Exponent of the amplitudes: half the slope of the power of photographs, with the sign changed."""
_CONTRAST = 2.0
"""Of decorrelated colours: one unit is this much before the logistic function, at most."""
_FIRST = 0.01
"""Deviation of the first coefficients."""
_EDGE = 1 / 512
"""Pixels of a given image stay so far from 0 and 1, where the logistic function has no inverse."""


def frequencies(size: tuple[int, int], full: tuple[int, int]) -> np.ndarray:
    """Give the frequency of each coefficient of ``rfft2``, in cycles per longer side of an image.

    Args:
        size: height and width of the transform.
        full: height and width that state the shape of the image.

    Returns:
        ``(height, width // 2 + 1)``.
    """
    rows = np.fft.fftfreq(size[0], 1 / size[0])[:, None] / full[0]
    columns = np.fft.rfftfreq(size[1], 1 / size[1])[None] / full[1]
    return np.hypot(rows, columns) * max(full)


def colour_root(channels: int) -> np.ndarray:
    """Give the matrix that turns decorrelated colours into channels, ``(channels, channels)``.

    For three channels it is a root of :data:`COLOUR_COVARIANCE`: a matrix R with ``R R^T``
    proportional to it. Its longest column has length 1. Otherwise it is the identity.
    """
    if channels != 3:
        return np.eye(channels)
    values, vectors = np.linalg.eigh(np.array(COLOUR_COVARIANCE))
    # The sign of an eigenvector is a library's choice.
    vectors = vectors * np.sign(vectors.sum(0))
    return np.asarray(vectors * np.sqrt(values / values.max()))


@dataclass(frozen=True)
class SpectralForm:
    """Turns coefficients ``(n, channels, height, width // 2 + 1, 2)`` into images from 0 to 1.

    Attributes:
        size: channels, height and width of the images.
    """

    size: tuple[int, int, int]

    @property
    def full(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.size[1:]

    @cached_property
    def root(self) -> np.ndarray:
        """Decorrelated colours to channels."""
        return _CONTRAST * colour_root(self.size[0])

    def amplitudes(self, size: tuple[int, int]) -> np.ndarray:
        """Give the factor of each coefficient; zero where an even side has no own frequency."""
        found = 1 / np.maximum(frequencies(size, self.full), 1.0) ** _POWER
        if size[0] % 2 == 0:
            found[size[0] // 2] = 0
        if size[1] % 2 == 0:
            found[:, -1] = 0
        return found

    def first(self, seeds: Sequence[int]) -> Tensor:
        """Draw the coefficients that images begin with, one image per seed."""
        import torch

        channels, height, width = self.size
        shape = (channels, height, width // 2 + 1, 2)
        drawn = [np.random.default_rng([seed, 2]).standard_normal(shape) for seed in seeds]
        return torch.from_numpy((_FIRST * np.stack(drawn)).astype(np.float32))

    def encode(self, images: np.ndarray) -> Tensor:
        """Give the coefficients of images ``(n, channels, height, width)`` from 0 to 1."""
        import torch

        pixels = np.clip(images.astype(np.float64), _EDGE, 1 - _EDGE)
        colours = np.einsum(
            "ij,njhw->nihw", np.linalg.inv(self.root), np.log(pixels / (1 - pixels))
        )
        found = np.fft.rfft2(colours, norm="forward")
        factors = self.amplitudes(self.full)
        found = np.where(factors > 0, found / np.where(factors > 0, factors, 1), 0)
        return torch.from_numpy(np.stack([found.real, found.imag], -1).astype(np.float32))

    def decode(self, coefficients: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Make images of coefficients.

        Args:
            coefficients: of any size up to that of the images.
            size: height and width of the images; None for that of the coefficients. Larger images
                have the same frequencies.
        """
        import torch

        own = height_and_width(coefficients)
        factors = torch.from_numpy(self.amplitudes(own)).to(coefficients)
        found = torch.view_as_complex((coefficients * factors[..., None]).contiguous())
        size = size or own
        if size != own:
            found = _pad(found, own, size)
        colours = torch.fft.irfft2(found, s=size, norm="forward")
        root = torch.from_numpy(self.root).to(colours)
        return torch.sigmoid(torch.einsum("ij,njhw->nihw", root, colours))


def height_and_width(coefficients: Tensor) -> tuple[int, int]:
    """Give the size of the images of coefficients; widths are even."""
    return coefficients.shape[2], 2 * (coefficients.shape[3] - 1)


def low(coefficients: Tensor, size: tuple[int, int]) -> Tensor:
    """Take the coefficients of a smaller image, ``size`` high and (an even number) wide."""
    import torch

    height, columns = size[0], size[1] // 2 + 1
    top = (height + 1) // 2
    rows = [coefficients[:, :, :top, :columns], coefficients[:, :, top - height :, :columns]]
    return torch.cat(rows, 2)


def replace_low(coefficients: Tensor, part: Tensor) -> Tensor:
    """Put the coefficients of a smaller image, see :func:`low`, into those of the whole one.

    Frequencies that the smaller image cannot show keep their coefficients, so that an image keeps
    its content when it grows.
    """
    if part.shape == coefficients.shape:
        return part
    height, shown = part.shape[2], part.shape[3] - 1
    top = (height + 1) // 2
    bottom = height - top - (height % 2 == 0)
    whole = coefficients.clone()
    whole[:, :, :top, :shown] = part[:, :, :top, :shown]
    whole[:, :, -bottom:, :shown] = part[:, :, -bottom:, :shown]
    return whole


def _pad(spectrum: Tensor, own: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Put zeros where a larger image has frequencies that a smaller one has not."""
    top, bottom = (own[0] + 1) // 2, own[0] // 2
    columns = spectrum.shape[3]
    whole = spectrum.new_zeros((*spectrum.shape[:2], size[0], size[1] // 2 + 1))
    whole[:, :, :top, :columns] = spectrum[:, :, :top]
    whole[:, :, size[0] - bottom :, :columns] = spectrum[:, :, top:]
    return whole


def saturated_shares(pixels: np.ndarray) -> np.ndarray:
    """Give the share of values that are 0 or 255 of each image, ``(n, height, width, 3)`` uint8."""
    return np.asarray(((pixels == 0) | (pixels == 255)).mean((1, 2, 3)))


def spectral_slopes(pixels: np.ndarray) -> np.ndarray:
    """Give the slope of each image's power spectrum against frequency, both in logarithms.

    The power is that of all colours, averaged over rings of one cycle per image; the straight line
    is fitted to rings at equal ratios from 2 cycles to half the number of pixels. Photographs
    have slopes near -2.6, white noise has 0.

    Args:
        pixels: ``(n, height, width, 3)``; the middle square is taken.
    """
    side = min(pixels.shape[1:3])
    top, left = ((length - side) // 2 for length in pixels.shape[1:3])
    squares = pixels[:, top : top + side, left : left + side].astype(np.float64) / 255
    rings = np.rint(frequencies((side, side), (side, side))).astype(int).ravel()
    chosen = np.unique(np.rint(np.geomspace(2, max(side // 2, 3), 24)).astype(int))
    return np.array([_slope(image, rings, chosen) for image in squares])


def _slope(image: np.ndarray, rings: np.ndarray, chosen: Any) -> float:
    spectrum = np.fft.rfft2(image - image.mean((0, 1)), axes=(0, 1))
    power = (np.abs(spectrum) ** 2).sum(2).ravel()
    means = np.bincount(rings, power) / np.bincount(rings)
    fitted = np.polyfit(np.log(chosen), np.log(means[chosen] + 1e-12), 1)
    return float(fitted[0])
