"""Summed distance of a filter to all others of its layer."""

from __future__ import annotations

import numpy as np

from filtersurgeon.ranking.distances import pairwise_distances
from filtersurgeon.ranking.method import filters_only


@filters_only
def distance_sum(filters: np.ndarray) -> np.ndarray:
    """Score N filters of l weights, ``(N, l)``, by ``sum_j ||f_i - f_j||``.

    Source: He et al., *Meta Filter Pruning*, 2019 (arXiv:1904.03961), Eq. 4 with p = 2.

    Returns:
        ``(N,)``, in the unit of the weights.
    """
    return pairwise_distances(filters).sum(axis=1)
