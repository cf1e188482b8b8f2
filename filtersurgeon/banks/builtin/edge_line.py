"""Edge and line detectors at four angles, 3x3: edge-line-9, edge-line-16 or edge-line-18."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank
from filtersurgeon.errors import OptionError

COUNTS = (9, 16, 18)
_CORNER, _SIDE = 0.285868, 0.107066
_LINE, _NEXT, _FAR = 0.166667, -0.053905, -0.142189
_GAUSSIAN_SIGMA = 0.75


def edge_line(size: tuple[int, int], *, count: int = 9) -> FilterBank | None:
    """Make the bank; it has 3x3 kernels only.

    Every kernel has absolute sum one. Edges (uneven) and lines (even) at 0, 45, 90 and 135 degrees
    are free of mean. With 9 there is a Gaussian of sigma 0.75 beside these eight; with 16 their
    negatives; with 18 the nine and their negatives. The dissertation does not print its ninth
    kernel; eight kernels without mean and a Gaussian span the nine dimensions that it states.
    To a linear transform a negative is the same kernel as its positive.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, Fig. 6.2.

    Args:
        size: height and width.
        count: 9, 16 or 18.

    Returns:
        The bank, or None unless the size is 3x3.

    Raises:
        OptionError: another count.
    """
    if count not in COUNTS:
        raise OptionError(f"bank edge-line-{count}: there are {', '.join(map(str, COUNTS))} only")
    if size != (3, 3):
        return None
    positive = {**_detectors(), **({} if count == 16 else {"gaussian": _gaussian()})}
    negative = {f"-{label}": -kernel for label, kernel in positive.items()}
    named = positive if count == 9 else {**positive, **negative}
    kernels = np.stack(list(named.values()))
    return FilterBank(f"edge-line-{count}", kernels, tuple(named), __doc__ or "")


def _detectors() -> dict[str, np.ndarray]:
    edge = np.array([[-1.0, 0.0, 1.0]] * 3) / 6
    line = np.array([[-1.0, 2.0, -1.0]] * 3) / 12
    slanted_edge = np.array(
        [[0, _SIDE, _CORNER], [-_SIDE, 0, _SIDE], [-_CORNER, -_SIDE, 0]],
    )
    slanted_line = np.array(
        [[_LINE, _NEXT, _FAR], [_NEXT, _LINE, _NEXT], [_FAR, _NEXT, _LINE]],
    )
    # The printed digits leave a sum of 2e-6, and a constant part is no detector's.
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
