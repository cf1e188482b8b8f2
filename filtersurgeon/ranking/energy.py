"""Squared norms of filters, in the order of the exact sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_RUN = 256
"""Weights whose squares are summed in their own type, by BLAS."""

_CLOSE = 2.0**-20
"""Several times the relative error of such a sum; that of m of them is less by the root of m."""

_FEW = 1 << 16
"""Below so many weights, a layer is summed in float64 in no more time."""

_SMALL = 1e-25
"""Below this, squares of float32 may have vanished."""


def squared_norms(filters: np.ndarray) -> NDArray[np.float64]:
    """Sum the squares of N filters of l weights, ``(N, l)``, in the order of the exact sums.

    Sums in float64 of the products that BLAS makes of short runs take half of the time of
    sums that are in float64 throughout, and err by a part in ten million, as float32 itself does.
    Filters closer to each other than that, and those whose squares float32 cannot hold, are summed
    in float64 throughout. So are small layers and short filters, which BLAS does not make faster.

    Returns:
        ``(N,)``; not finite where a weight is not.
    """
    whole = filters.shape[1] // _RUN * _RUN
    if filters.dtype != np.float32 or not whole or filters.size < _FEW:
        return _exact(filters)
    runs = filters[:, :whole].reshape(len(filters), -1, 1, _RUN)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        products = np.matmul(runs, runs.swapaxes(2, 3))
        found: NDArray[np.float64] = products.reshape(len(filters), -1).sum(1, np.float64)
    found += _exact(filters[:, whole:])
    unsure = ~((found > _SMALL) & np.isfinite(found)) | _close(found, _CLOSE / runs.shape[1] ** 0.5)
    if unsure.any():
        found[unsure] = _exact(filters[unsure])
    return found


def _exact(filters: np.ndarray) -> NDArray[np.float64]:
    # Cast in the small buffers of einsum, five times faster than a copy in float64 first.
    found: NDArray[np.float64] = np.einsum("nl,nl->n", filters, filters, dtype=np.float64)
    return found


def _close(values: NDArray[np.float64], gap: float) -> NDArray[np.bool_]:
    """Tell which values have a neighbour so close that errors may change places with it."""
    order = np.argsort(values)
    lower, upper = values[order][:-1], values[order][1:]
    with np.errstate(invalid="ignore"):
        near = ~(upper - lower > gap * upper)
    found = np.zeros(len(values), bool)
    found[order[:-1][near]] = True
    found[order[1:][near]] = True
    return found
