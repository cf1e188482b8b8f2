"""Distance of a filter to the geometric median of its layer."""

from __future__ import annotations

import numpy as np

from filtersurgeon.errors import OptionError
from filtersurgeon.ranking.distances import geometric_median as weiszfeld
from filtersurgeon.ranking.distances import pairwise_distances
from filtersurgeon.ranking.method import filters_only


@filters_only
def geometric_median(filters: np.ndarray, *, centre: str = "point") -> np.ndarray:
    """Score N filters of l weights, ``(N, l)``, by their distance to the geometric median.

    Source: He et al., *Filter Pruning via Geometric Median*, CVPR 2019, Eq. 3-5.

    Args:
        filters: one filter per row.
        centre: ``point`` measures from the point of R^l with the least summed distance to all
            filters (Weiszfeld); ``filter`` from the filter with the least (the medoid).

    Returns:
        ``(N,)``, in the unit of the weights; filters near the median can be replaced by others.
    """
    if centre not in ("point", "filter"):
        raise OptionError(f"centre={centre} is unknown; use point or filter")
    if centre == "filter":
        distances = pairwise_distances(filters)
        return distances[np.argmin(distances.sum(axis=1))]
    X = np.asarray(filters, np.float64)
    return np.linalg.norm(X - weiszfeld(X), axis=1)
