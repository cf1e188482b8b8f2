"""Archetypal analysis of the filters of one layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController

from filtersurgeon.archetypes.problem import (
    Problem,
    checked_filters,
    problem_from_filters,
    problem_from_gram,
)
from filtersurgeon.archetypes.result import Archetypes, Floats, Integers
from filtersurgeon.archetypes.settings import Options, Settings
from filtersurgeon.errors import OptionError

# Violation of A's optimality conditions that the polish leaves, relative to the largest norm.
_KKT = 1e-13
# Weights in an archetype that are what rounding left of zero.
_DUST = 1e-10


def archetypal_analysis(
    filters: ArrayLike,
    n_archetypes: int,
    *,
    sample_weight: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Archetypes:
    """Find archetypes of the filters of a layer: extreme mixtures that model all the others.

    Solves ``min ||X - X B A||_F^2`` with the columns of A (d, N) and B (N, d) on simplices
    (Cutler and Breiman 1994; equation 1 of Thakur et al. 2022), where X (l, N) has one filter per
    column, by alternating pairwise coordinate steps on the centred Gram matrix.

    Args:
        filters: one flattened filter per row (N, l), any real dtype; computed in float64.
        n_archetypes: d, at least 1; where fewer filters differ, each of those is an archetype.
        sample_weight: weights of the filters in the objective (N,), not negative; ones without.
            A filter of weight zero is modelled and may lend itself to archetypes, but its error
            does not count.
        **options: `init`, `tol`, `max_iter` and `random_state`; see `Settings`.

    Returns:
        The archetypes. Permuting the filters permutes the answer.

    Raises:
        LayerError: filters that are not a finite matrix with a row and a column, or weights
            that do not fit them.
        OptionError: an unknown start, or fewer than one archetype.
    """
    settings = Settings(**options)
    with single_threaded_blas():
        X = checked_filters(filters)
        found = solve(problem_from_filters(X, sample_weight), n_archetypes, settings)
        return replace(found, archetypes=_mixtures(found.weights, X))


def archetypal_analysis_from_gram(
    gram: ArrayLike,
    n_archetypes: int,
    *,
    sample_weight: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Archetypes:
    """Find archetypes from the inner products of the filters alone.

    Args:
        gram: inner products (N, N) about any origin; computed in float64, so give products of
            centred filters where these are far from the origin.
        n_archetypes: as in `archetypal_analysis`.
        sample_weight: as in `archetypal_analysis`.
        **options: as in `archetypal_analysis`.

    Returns:
        The archetypes as weights and coefficients; `archetypes` is None.

    Raises:
        LayerError: a matrix that is not a Gram matrix, or weights that do not fit it.
        OptionError: an unknown start, or fewer than one archetype.
    """
    settings = Settings(**options)
    with single_threaded_blas():
        return solve(problem_from_gram(gram, sample_weight), n_archetypes, settings)


def solve(problem: Problem, n_archetypes: int, settings: Settings) -> Archetypes:
    """Solve a prepared problem and hand the answer back in the caller's order."""
    if n_archetypes < 1:
        raise OptionError(f"at least one archetype is needed, not {n_archetypes}")
    # Imported here because these compile and load numba, which is slow to import.
    from filtersurgeon.archetypes.alternation import alternate
    from filtersurgeon.archetypes.kernels import polish_coefficients
    from filtersurgeon.archetypes.start import first_archetypes

    d = min(n_archetypes, int(np.count_nonzero(problem.mass)))
    picks, unique = first_archetypes(problem, d, settings)
    ended = alternate(problem, picks, settings.tol, settings.max_iter)
    B = np.where(ended.state.B > _DUST, ended.state.B, 0.0)
    B /= B.sum(axis=1, keepdims=True)
    GB = problem.multiply(B)
    H = GB @ B.T
    A, C = ended.state.A, np.ascontiguousarray(GB.T)
    polish_coefficients(A, C, H, _KKT * problem.gram.diagonal().max())
    A /= A.sum(axis=1, keepdims=True)
    errors = problem.gram.diagonal() + np.einsum("nd,nd->n", A, A @ H - 2.0 * C)
    objective = max(0.0, float(problem.mass @ errors))
    return Archetypes(
        coefficients=A[problem.members].T,
        weights=_shared_among_copies(B, problem.members),
        archetypes=None,
        objective=objective,
        relative_error=np.sqrt(objective / problem.spread) if problem.spread else 0.0,
        n_iter=len(ended.history),
        converged=ended.converged,
        history=ended.history,
        coefficients_unique=unique,
    )


def _mixtures(weights: Floats, X: Floats) -> Floats:
    """Give the archetypes (d, l), of which most are mixtures of very few of the filters."""
    used = [np.flatnonzero(column) for column in weights.T]
    return np.stack([weights[u, j] @ X[u] for j, u in enumerate(used)])


def _shared_among_copies(B: Floats, members: Integers) -> Floats:
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
