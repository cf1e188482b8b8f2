"""Edge and line detectors at four angles, 3x3: edge-line-9, -13, -16 or -18."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.errors import OptionError

_NINE = tuple(range(1, 10))
COUNTS = {
    9: _NINE,
    13: (*_NINE, 11, 13, 15, 17),
    16: (*range(1, 9), *range(10, 18)),
    18: tuple(range(1, 19)),
}
_CORNER, _SIDE = 0.285868, 0.107066
_LINE, _NEXT, _FAR = 0.166667, 0.053905, 0.142189
_GAUSSIAN_SIGMA = 0.75


def edge_line(size: Size, *, count: int = 9) -> FilterBank | None:
    """Make the bank; it has 3x3 kernels only.

    Every kernel has absolute sum one. Edges (uneven) and lines (even) at 0, 45, 90 and 135 degrees
    are mean-free. Filters are numbered as in Fig. 6.2: 1-4 are the edges, 5-8 the lines, 9 the
    Gaussian and 10-18 the negatives of 1-9. Rows go from top to bottom, columns from left to
    right, and the angle is that of the gradient, turned from the column axis towards the row axis:
    the edge at 0 degrees grows to the right, at 45 to the lower right, at 90 downwards, at 135 to
    the lower left. A line runs across its gradient: at 0 degrees it is vertical, at 45 it joins the
    lower left and the upper right corner.

    9 kernels are the eight and a Gaussian of sigma 0.75; 13 have also the negatives of those at 45
    and 135 degrees; 16 are the eight and their negatives; 18 are the nine and their negatives. The
    dissertation does not print its ninth kernel; eight kernels without mean and a Gaussian span the
    nine dimensions that it states.
    To a linear transform a negative is the same kernel as its positive.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, Fig. 6.2 and Table 6.7.

    Args:
        size: height and width.
        count: 9, 13, 16 or 18.

    Returns:
        The bank, or None unless the size is 3x3.

    Raises:
        OptionError: another count.
    """
    return subset("edge-line", size, count, COUNTS, __doc__ or "")


def subset(
    name: str, size: Size, count: int, counts: Mapping[int, Sequence[int]], description: str
) -> FilterBank | None:
    """Make a bank of some of the 18 filters of Fig. 6.2.

    Args:
        name: of the family of banks.
        size: height and width; there are none unless it is 3x3.
        count: number of filters.
        counts: count -> their numbers, from 1.
        description: of the bank.

    Raises:
        OptionError: a count that is not among them.
    """
    if count not in counts:
        raise OptionError(f"bank {name}-{count}: there are {', '.join(map(str, counts))} only")
    if size != (3, 3):
        return None
    positive = {**_detectors(), "gaussian": _gaussian()}
    every = {**positive, **{f"-{label}": -kernel for label, kernel in positive.items()}}
    labels = [list(every)[number - 1] for number in counts[count]]
    kernels = np.stack([every[label] for label in labels])
    return FilterBank(f"{name}-{count}", kernels, tuple(labels), description)


def _detectors() -> dict[str, np.ndarray]:
    edge = np.array([[-1.0, 0.0, 1.0]] * 3) / 6
    line = np.array([[-1.0, 2.0, -1.0]] * 3) / 12
    slanted_edge = np.array(
        [[-_CORNER, -_SIDE, 0], [-_SIDE, 0, _SIDE], [0, _SIDE, _CORNER]],
    )
    slanted_line = np.array(
        [[-_FAR, -_NEXT, _LINE], [-_NEXT, _LINE, -_NEXT], [_LINE, -_NEXT, -_FAR]],
    )
    # The printed digits sum to 3e-6; the filters are stated to be mean-free.
    slanted_line -= slanted_line.mean()
    return {
        "edge 0": edge,
        "edge 45": slanted_edge,
        "edge 90": edge.T,
        "edge 135": slanted_edge[:, ::-1],
        "line 0": line,
        "line 45": slanted_line,
        "line 90": line.T,
        "line 135": slanted_line[:, ::-1],
    }


def _gaussian() -> np.ndarray:
    row = np.exp(-np.square(np.arange(-1, 2)) / (2 * _GAUSSIAN_SIGMA**2))
    return np.outer(row, row) / row.sum() ** 2
