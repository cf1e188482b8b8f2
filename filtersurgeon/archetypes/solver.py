"""From a prepared problem to polished archetypes, and coefficients for given ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController

from filtersurgeon.archetypes.problem import (
    Archetypes,
    Floats,
    Integers,
    Problem,
    Settings,
    check_filters,
    nearest_only,
)
from filtersurgeon.errors import LayerError

if TYPE_CHECKING:
    from filtersurgeon.archetypes.alternation import Alternation

# Violation of A's optimality conditions that the polish leaves, relative to the largest norm.
_KKT = 1e-13
# Weights in an archetype that are what rounding left of zero.
_DUST = 1e-10
# Pair steps that bring coefficients into the reach of the polish at most, and the difference of
# gradients, relative to the largest norm, at which they are there.
_STEPS = 100
_NEAR = 1e-5


def convex_coefficients(filters: ArrayLike, archetypes: ArrayLike) -> Floats:
    """Model filters by the closest convex mixtures of given archetypes.

    Args:
        filters: one filter per row (N, l).
        archetypes: one archetype per row (d, l).

    Returns:
        A (d, N), every column non-negative with sum 1 and exact zeros.

    Raises:
        LayerError: filters or archetypes that are not finite matrices of as many columns.
    """
    X, Z = check_filters(filters), check_filters(archetypes)
    if X.shape[1] != Z.shape[1]:
        raise LayerError(f"filters of {X.shape[1]} weights, but archetypes of {Z.shape[1]}")
    with single_threaded_blas():
        return closest_mixtures(X - Z.mean(axis=0), Z - Z.mean(axis=0)).T


def closest_mixtures(X: Floats, Z: Floats) -> Floats:
    """Give the rows (N, d) of mixtures of Z (d, l) that are closest to X (N, l)."""
    C, H = X @ Z.T, Z @ Z.T
    norms = np.einsum("nl,nl->n", X, X)
    A = nearest_only(C, H.diagonal())
    _optimise(A, C, H, norms)
    return A


def _optimise(A: Floats, C: Floats, H: Floats, norms: Floats) -> None:
    """Bring rows of coefficients to their exact optimum, in place: near it first, then there."""
    from filtersurgeon.archetypes.kernels import update_coefficients
    from filtersurgeon.archetypes.polish import polish_coefficients

    size = max(norms.max(), H.diagonal().max())
    update_coefficients(A, C, H, norms, _STEPS, _NEAR * size)
    polish_coefficients(A, C, H, _KKT * size)
    A /= A.sum(axis=1, keepdims=True)


def solve(problem: Problem, n_archetypes: int, settings: Settings) -> Archetypes:
    """Solve a prepared problem and hand the answer back in the caller's order."""
    # Imported here because numba is slow to import.
    from filtersurgeon.archetypes.problem import check_room

    check_room()
    from filtersurgeon.archetypes.elimination import best_of, plan_search, search
    from filtersurgeon.archetypes.start import first_starts

    starts, unique = first_starts(problem, n_archetypes, settings)
    plan = plan_search(problem, starts, settings)
    if settings.device is None:
        tries = search(problem, plan, settings)
    else:
        from filtersurgeon.archetypes.torch_search import search_together

        tries = search_together([problem], [plan], settings)[0]
    return polish(problem, best_of(tries), unique)


def polish(problem: Problem, ended: Alternation, unique: bool) -> Archetypes:
    """Take the archetypes as they are and bring A to its exact optimum for them."""
    B = np.where(ended.state.B > _DUST, ended.state.B, 0.0)
    B /= B.sum(axis=1, keepdims=True)
    GB = problem.multiply(B)
    H = GB @ B.T
    A, C = ended.state.A, np.ascontiguousarray(GB.T)
    _optimise(A, C, H, problem.gram.diagonal())
    errors = problem.gram.diagonal() + np.einsum("nd,nd->n", A, A @ H - 2.0 * C)
    objective = max(0.0, float(problem.mass @ errors))
    return Archetypes(
        coefficients=A[problem.members].T,
        weights=share_among_copies(B, problem.members),
        archetypes=np.empty((len(B), 0)),
        objective=objective,
        relative_error=root_share(objective, problem.spread),
        n_iter=len(ended.history),
        converged=ended.converged,
        history=ended.history,
        coefficients_unique=unique,
    )


def root_share(objective: float, spread: float) -> float:
    """Give the relative error; nothing is wrong where all filters are equal."""
    return float(np.sqrt(objective / spread)) if spread else 0.0


def mixtures(weights: Floats, X: Floats) -> Floats:
    """Give the archetypes (d, l), of which most are mixtures of very few of the filters."""
    used = [np.flatnonzero(column) for column in weights.T]
    return np.stack([weights[u, j] @ X[u] for j, u in enumerate(used)])


def share_among_copies(B: Floats, members: Integers) -> Floats:
    """Give the weights (N, d) of all filters from those (d, n) of the distinct ones."""
    copies = np.bincount(members)
    return (B / copies).T[members]


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Keep matrix products on one thread: same sums on every machine, and no busy waiting."""
    with _blas().limit(limits=1, user_api="blas"):
        yield


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()
