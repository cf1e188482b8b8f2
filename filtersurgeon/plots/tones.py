"""Map arrays to colours: decoded filters, generated images, feature maps."""

from __future__ import annotations

import numpy as np

from filtersurgeon.plots.canvas import COLOURS


def signed(values: np.ndarray, bound: float | None = None) -> np.ndarray:
    """Colour a map of signed numbers: blue negative, white zero, red positive.

    Args:
        values: ``(height, width)``.
        bound: the magnitude of full colour; None for the map's own.

    Returns:
        ``(height, width, 3)`` uint8.
    """
    import matplotlib

    bound = bound or float(np.abs(values).max()) or 1.0
    return _bytes(matplotlib.colormaps[COLOURS](values / (2 * bound) + 0.5)[..., :3])


def opponent(values: np.ndarray) -> np.ndarray:
    """Show a decoded filter: one channel as :func:`signed`, three as colours around grey.

    Args:
        values: ``(channels, height, width)``.
    """
    if values.shape[0] != 3:
        return signed(values.mean(0) if values.shape[0] > 1 else values[0])
    bound = float(np.abs(values).max()) or 1.0
    return _bytes(values.transpose(1, 2, 0) / (2 * bound) + 0.5)


def photograph(values: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Show a normalised image ``(channels, height, width)`` as a person would see it."""
    pixels = values * np.reshape(std, (-1, 1, 1)) + np.reshape(mean, (-1, 1, 1))
    return _bytes(_as_colour(pixels))


def stretched(values: np.ndarray) -> np.ndarray:
    """Show a generated image ``(channels, height, width)`` with its contrast made natural.

    All channels are scaled together, so that four standard deviations fill the range.
    """
    deviation = float(values.std()) or 1.0
    return _bytes(_as_colour((values - values.mean()) / (4 * deviation) + 0.5))


def activation(values: np.ndarray, bound: float | None = None) -> np.ndarray:
    """Show a feature map ``(height, width)``: white high, black zero, blue negative.

    Source: Linse, 2025, Table 4.3.

    Args:
        values: the map.
        bound: the magnitude that is shown brightest; None for the map's own.
    """
    scaled = values / (bound or float(np.abs(values).max()) or 1.0)
    bright = np.clip(scaled, 0, 1)[..., None] * np.ones(3)
    below = np.clip(-scaled, 0, 1)[..., None] * np.array([0.25, 0.5, 1.0])
    return _bytes(bright + below)


def heat(values: np.ndarray) -> np.ndarray:
    """Colour a map ``(height, width)`` of numbers from 0 to 1, dark blue to red."""
    import matplotlib

    return _bytes(matplotlib.colormaps["turbo"](np.clip(values, 0, 1))[..., :3])


def _as_colour(values: np.ndarray) -> np.ndarray:
    """Put channels last; anything but three channels becomes grey."""
    if values.shape[0] == 3:
        return values.transpose(1, 2, 0)
    return np.repeat(values.mean(0)[..., None], 3, axis=2)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
