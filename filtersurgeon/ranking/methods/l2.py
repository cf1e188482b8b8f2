"""Euclidean norm of a filter."""

from __future__ import annotations

import numpy as np

from filtersurgeon.ranking.energy import squared_norms
from filtersurgeon.ranking.method import reveals


@reveals
def l2(filters: np.ndarray) -> np.ndarray:
    """Score N filters of l weights, ``(N, l)``, by their L2 norm.

    Source: He et al., *Soft Filter Pruning*, IJCAI 2018, Eq. 2 with p = 2.

    Returns:
        ``(N,)``, in the unit of the weights.
    """
    return np.sqrt(squared_norms(filters))
