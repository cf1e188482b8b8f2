"""All kernels of a layer in one small picture: a pixel a weight, to be shown enlarged."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np

from filtersurgeon.plots.canvas import COLOURS

_LEVELS = 31
"""Steps of colour from zero to full, on either side."""
_GAP, _UNKNOWN = 2 * _LEVELS + 1, 2 * _LEVELS + 2
_GREY, _PINK = (222, 226, 233), (255, 0, 200)
_WIDE, _HIGH = 1100, 1400
"""Size of a picture as it is shown, in CSS pixels."""
_LARGEST, _SMALLEST = 7, 2
"""Sides of the square that shows a weight, in CSS pixels."""
_FULL = 99.0
"""Percentile of the magnitudes that has full colour, so that single large weights do not pale the
others."""


@dataclass(frozen=True)
class KernelSheet:
    """A picture of kernels.

    Attributes:
        png: the file, one pixel for each weight, and grey lines between kernels.
        width: how wide it is to be shown, in CSS pixels.
        bound: the magnitude of full colour.
    """

    png: bytes
    width: int
    bound: float


def draw_kernels(filters: np.ndarray) -> KernelSheet:
    """Draw filters, each a block of its kernels: blue negative, white zero, red positive.

    Args:
        filters: ``(filters, kernels, height, width)`` of one layer, on one scale. What is not
            finite is pink.
    """
    filters = np.asarray(filters, np.float64)
    sizes = np.abs(filters[np.isfinite(filters)])
    bound = float(np.percentile(sizes, _FULL)) if sizes.size else 0.0
    bound = bound or (float(sizes.max()) if sizes.size else 0.0) or 1.0
    for scale in range(_LARGEST, _SMALLEST - 1, -1):
        sheet = _arrange(_paint(filters, bound), _WIDE // scale)
        if len(sheet) * scale <= _HIGH:
            break
    return KernelSheet(_encode(sheet), sheet.shape[1] * scale, bound)


def _paint(filters: np.ndarray, bound: float) -> np.ndarray:
    """Turn weights into indices of the palette."""
    with np.errstate(invalid="ignore"):
        scaled = np.rint(np.clip(filters / bound, -1, 1) * _LEVELS) + _LEVELS
    known = np.isfinite(filters)
    return np.where(known, np.where(known, scaled, 0), _UNKNOWN).astype(np.uint8)


def _arrange(colours: np.ndarray, wide: int) -> np.ndarray:
    """Put kernels beside each other, and filters into lines that are at most so wide."""
    count, kernels, height, width = colours.shape
    cells = np.full((count, kernels, height + 1, width + 1), _GAP, np.uint8)
    cells[:, :, :height, :width] = colours
    most = max(1, wide // (width + 1))
    lines = -(-kernels // most)
    columns = -(-kernels // lines)
    blocks = _tile(cells, lines, columns)
    if kernels > 1:  # filters stand a little further apart than kernels
        blocks = np.pad(blocks, ((0, 0), (0, 1), (0, 1)), constant_values=_GAP)
    beside = max(1, min(count, wide // blocks.shape[2]))
    rows = -(-count // beside)
    page = _tile(blocks[None], rows, beside)[0]
    return np.pad(page, ((1, 0), (1, 0)), constant_values=_GAP)


def _tile(cells: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Lay ``(n, cells, height, width)`` out as ``(n, rows * height, columns * width)``."""
    n, count, height, width = cells.shape
    padded = np.full((n, rows * columns, height, width), _GAP, np.uint8)
    padded[:, :count] = cells
    grid = padded.reshape(n, rows, columns, height, width).transpose(0, 1, 3, 2, 4)
    return grid.reshape(n, rows * height, columns * width)


def _encode(page: np.ndarray) -> bytes:
    import matplotlib
    from PIL import Image

    levels = np.linspace(0, 1, 2 * _LEVELS + 1)
    colours = np.rint(255 * matplotlib.colormaps[COLOURS](levels)[:, :3]).astype(np.uint8)
    colours[_LEVELS] = 255
    image = Image.fromarray(page, "P")
    image.putpalette([*colours.ravel().tolist(), *_GREY, *_PINK])
    buffer = BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()
