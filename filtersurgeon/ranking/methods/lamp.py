"""Norm of a filter relative to all stronger ones of its layer: comparable between layers."""

from __future__ import annotations

import numpy as np

from filtersurgeon.ranking.energy import squared_norms


def lamp(filters: np.ndarray) -> np.ndarray:
    """Score N filters of l weights, ``(N, l)``, by layer-adaptive magnitude.

    The squared L2 norm is divided by the sum of the squared norms of all filters of the layer that
    are at least as long (of two of equal length, the later one counts as longer). The longest one
    of every layer scores 1, so that a threshold over many layers empties none. Within a layer the
    order is that of the L2 norm.

    Source: Lee et al., *Layer-adaptive Sparsity for the Magnitude-based Pruning*, ICLR 2021, Eq. 2,
    for filters in place of weights.

    Returns:
        ``(N,)`` from 0 to 1; zero for filters of zeros.
    """
    energy = squared_norms(filters)
    order = np.argsort(energy, kind="stable")
    left = np.cumsum(energy[order][::-1])[::-1]
    scores = np.empty_like(energy)
    scores[order] = np.divide(energy[order], left, out=np.zeros_like(left), where=left > 0)
    return scores
