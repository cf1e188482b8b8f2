"""Sum of the absolute weights of a filter."""

from __future__ import annotations

import numpy as np

from filtersurgeon.ranking.method import reveals


@reveals
def l1(filters: np.ndarray) -> np.ndarray:
    """Score N filters of l weights, ``(N, l)``, by their L1 norm.

    Source: Li et al., *Pruning Filters for Efficient ConvNets*, ICLR 2017, section 3.1.

    Returns:
        ``(N,)``, in the unit of the weights.
    """
    return np.abs(filters).sum(axis=1, dtype=np.float64)
