"""Distances between filters, and the point that is nearest to all of them."""

from __future__ import annotations

import numpy as np


def pairwise_distances(filters: np.ndarray) -> np.ndarray:
    """Give the Euclidean distances between all rows of ``(N, l)``.

    Works on the Gram matrix of the centred rows, in float64, so that filters which share a large
    common part lose no digits.

    Returns:
        ``(N, N)`` float64, symmetric, with a zero diagonal.
    """
    X = np.asarray(filters, np.float64)
    X = X - X.mean(axis=0)
    gram = X @ X.T
    squares = np.diagonal(gram)
    squared = np.maximum(squares[:, None] + squares - 2.0 * gram, 0.0)
    np.fill_diagonal(squared, 0.0)
    return np.sqrt(squared)


def geometric_median(
    points: np.ndarray, *, tol: float = 1e-12, max_iter: int = 10_000
) -> np.ndarray:
    """Find the point with the least summed distance to the rows of ``(N, l)``.

    Weiszfeld's iteration, with the step of Vardi and Zhang (PNAS 97, 2000, Eq. 2.4-2.6) where it
    meets a data point. It runs in the space that the points span, which has at most N dimensions.

    Args:
        points: one per row.
        tol: stop when a step is shorter than this share of the points' spread.
        max_iter: stop after so many steps in any case.

    Returns:
        ``(l,)`` float64.
    """
    X = np.asarray(points, np.float64)
    mean = X.mean(axis=0)
    if X.shape[1] > X.shape[0]:
        basis, coordinates = np.linalg.qr((X - mean).T)
        return mean + basis @ _weiszfeld(coordinates.T, tol, max_iter)
    return mean + _weiszfeld(X - mean, tol, max_iter)


def _weiszfeld(X: np.ndarray, tol: float, max_iter: int) -> np.ndarray:
    centre = np.zeros(X.shape[1])
    spread = np.sqrt((X**2).sum(axis=1).mean())
    for _ in range(max_iter):
        offsets = X - centre
        distances = np.sqrt((offsets**2).sum(axis=1))
        apart = distances > 1e-14 * spread
        if not apart.any():
            return centre
        pulls = 1.0 / distances[apart]
        force = pulls @ offsets[apart]
        strength = np.linalg.norm(force)
        # Points at the centre hold it with a force of one each.
        held = len(X) - int(apart.sum())
        if strength <= held:
            return centre
        step = (1.0 - held / strength) * force / pulls.sum()
        centre = centre + step
        if np.linalg.norm(step) <= tol * spread:
            break
    return centre
