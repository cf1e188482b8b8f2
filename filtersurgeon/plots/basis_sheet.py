"""Sheets of basis filters, with the one-dimensional vectors that they are products of."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.plots.canvas import COLOURS, new_figure, write_figure

if TYPE_CHECKING:
    from filtersurgeon.explain.basis import Basis

_CELL = 0.62  # inches


def draw_basis(basis: Basis, path: str | Path) -> None:
    """Draw every filter of a basis with its number in the order of heat maps.

    Filters of a separable basis lie where their vertical vector (left) and their horizontal one
    (above) cross.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Fig. F.1.

    Args:
        basis: what to draw.
        path: where to; the ending chooses PNG, SVG or PDF.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     fs.draw_basis(fs.find_basis("dct", (3, 3)), Path(folder, "dct.svg"))
    """
    height, width = basis.size
    if basis.parts is None:
        columns = min(8, len(basis.vectors))
        places = [divmod(at, columns) for at in range(len(basis.vectors))]
        rows = ceil(len(places) / columns)
    else:
        rows, columns = height + 1, width + 1
        places = [(u + 1, v + 1) for u, v in basis.parts]
    figure = new_figure(_CELL * columns + 0.2, _CELL * 1.18 * rows + 0.45)
    figure.suptitle(f"{basis.name.upper()} basis, {height}x{width}", fontsize=9)
    bounds = {"left": 0.03, "right": 0.97, "bottom": 0.02, "wspace": 0.14, "hspace": 0.36}
    top = 1 - 0.5 / (_CELL * 1.18 * rows + 0.45)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**bounds, "top": top})
    for ax in axes.ravel():
        ax.axis("off")
    limit = np.abs(basis.vectors).max()
    for at, (place, vector) in enumerate(zip(places, basis.vectors, strict=True)):
        _show(axes[place], vector.reshape(height, width), limit)
        axes[place].set_title(str(at), fontsize=7, pad=2)
    if basis.parts is not None:
        _draw_parts(axes, basis)
    write_figure(figure, path)


def _draw_parts(axes: np.ndarray, basis: Basis) -> None:
    """Draw the 1-D vectors, which constant filters show by themselves."""
    assert basis.parts is not None
    kernels = basis.vectors.reshape(-1, *basis.size)
    for (u, v), kernel in zip(basis.parts, kernels, strict=True):
        if v == 0:
            _show(axes[u + 1, 0], kernel[:, :1], np.abs(kernel).max())
        if u == 0:
            _show(axes[0, v + 1], kernel[:1], np.abs(kernel).max())


def _show(ax: Any, values: np.ndarray, limit: float) -> None:
    ax.imshow(values, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
