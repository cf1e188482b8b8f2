"""Position in the layer's simplex: filters near an archetype matter, mixtures are redundant."""

from __future__ import annotations

import numpy as np

from filtersurgeon.archetypes import archetypal_analysis
from filtersurgeon.errors import OptionError
from filtersurgeon.ranking.ranking import Scores


def archetype(
    filters: np.ndarray,
    *,
    share: float = 0.25,
    capped: bool = True,
    normalize: bool = False,
    tol: float = 1e-5,
) -> Scores:
    """Score N filters of l weights, ``(N, l)``, by how few archetypes describe them.

    The filters are modelled as convex combinations of archetypes, ``X ~ X B A``. The score is the
    negative number of archetypes that a filter mixes, ``-||a_i||_0``. Equal scores are decided by
    the largest coefficient, then by the distance to the nearest archetype.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, Eq. 1 and section 4.

    Args:
        filters: one filter per row.
        share: number of archetypes as a share of the filters.
        capped: never take more archetypes than weights plus one. Beyond that, which the many
            filters of a depthwise layer reach, a filter is a mixture in more than one way, and
            the number of archetypes in it means little.
        normalize: scale every filter to unit norm first, so that only directions count.
        tol: stop the analysis at this relative improvement of its objective.

    Returns:
        Scores from ``-d`` to ``-1``; statistics ``archetypes`` (d), ``error`` (relative residual
        of the model) and ``pure`` (share of the filters that are an archetype by themselves).
    """
    if not 0 < share <= 1:
        raise OptionError(f"share={share} should lie above 0 and not above 1")
    X = np.asarray(filters, np.float64)
    if normalize:
        norms = np.linalg.norm(X, axis=1, keepdims=True)
        X = X / np.where(norms > 0, norms, 1.0)
    count = max(1, round(share * len(X)))
    model = archetypal_analysis(X, min(count, X.shape[1] + 1) if capped else count, tol=tol)
    A = model.coefficients
    mixed = (A > 0).sum(axis=0)
    statistics = {
        "archetypes": len(A),
        "error": model.relative_error,
        "pure": float((mixed == 1).mean()),
    }
    nearest = _distance_to_nearest(X, model.weights.T @ X)
    return Scores(-mixed.astype(np.float64), (A.max(axis=0), -nearest), statistics)


def _distance_to_nearest(X: np.ndarray, archetypes: np.ndarray) -> np.ndarray:
    centre = X.mean(axis=0)
    X, Z = X - centre, archetypes - centre
    squared = (X**2).sum(axis=1)[:, None] + (Z**2).sum(axis=1) - 2.0 * X @ Z.T
    return np.sqrt(np.maximum(squared.min(axis=1), 0.0))
