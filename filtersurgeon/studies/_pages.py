"""Contact sheets as the picture of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image


def fill_figure(figure: Figure, page: Image) -> None:
    """Lay a page over a whole figure, pixel by pixel."""
    pixels = np.asarray(page)
    figure.set_layout_engine("none")
    figure.set_size_inches(pixels.shape[1] / figure.dpi, pixels.shape[0] / figure.dpi)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.imshow(pixels, interpolation="nearest")
    axes.axis("off")
