"""Archetypal analysis of the filters of one layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Unpack

import numpy as np
from numpy.typing import ArrayLike
from threadpoolctl import ThreadpoolController

from filtersurgeon.archetypes.problem import (
    Points,
    Problem,
    checked_filters,
    distinct_points,
    problem_from_gram,
)
from filtersurgeon.archetypes.result import Archetypes, Floats, Integers
from filtersurgeon.archetypes.settings import Options, Settings
from filtersurgeon.errors import LayerError, OptionError

if TYPE_CHECKING:
    from filtersurgeon.archetypes.alternation import Alternation

# Violation of A's optimality conditions that the polish leaves, relative to the largest norm.
_KKT = 1e-13
# Weights in an archetype that are what rounding left of zero.
_DUST = 1e-10
# Pair steps that bring coefficients from the nearest archetype into the reach of the polish.
_STEPS = 60


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
        **options: `init`, `tol`, `max_iter`, `random_state`, `coreset_size` and `device`; see
            `Settings`.

    Returns:
        The archetypes. Permuting the filters permutes the answer.

    Raises:
        LayerError: filters that are not a finite matrix with a row and a column, or weights
            that do not fit them.
        OptionError: an unknown start, or fewer than one archetype.
    """
    settings = Settings(**options)
    with single_threaded_blas():
        return analyse(checked_filters(filters), n_archetypes, sample_weight, settings)


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
        **options: as in `archetypal_analysis`, but for `coreset_size`.

    Returns:
        The archetypes as weights and coefficients; `archetypes` is (d, 0).

    Raises:
        LayerError: a matrix that is not a Gram matrix, or weights that do not fit it.
        OptionError: an unknown start, or fewer than one archetype.
    """
    settings = Settings(**options)
    if settings.coreset_size is not None:
        raise OptionError("a coreset is drawn from filters, not from their Gram matrix")
    with single_threaded_blas():
        return solve(problem_from_gram(gram, sample_weight), n_archetypes, settings)


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
    X, Z = checked_filters(filters), checked_filters(archetypes)
    if X.shape[1] != Z.shape[1]:
        raise LayerError(f"filters of {X.shape[1]} weights, but archetypes of {Z.shape[1]}")
    with single_threaded_blas():
        return closest_mixtures(X - Z.mean(axis=0), Z - Z.mean(axis=0)).T


def closest_mixtures(X: Floats, Z: Floats) -> Floats:
    """Give the rows (N, d) of mixtures of Z (d, l) that are closest to X (N, l)."""
    from filtersurgeon.archetypes.kernels import polish_coefficients, update_coefficients

    C, H = X @ Z.T, Z @ Z.T
    norms = np.einsum("nl,nl->n", X, X)
    A = np.zeros_like(C)
    A[np.arange(len(A)), np.argmin(H.diagonal() - 2 * C, axis=1)] = 1.0
    update_coefficients(A, C, H, norms, _STEPS)
    polish_coefficients(A, C, H, _KKT * max(norms.max(), H.diagonal().max()))
    A /= A.sum(axis=1, keepdims=True)
    return A


def analyse(
    X: Floats, n_archetypes: int, sample_weight: ArrayLike | None, settings: Settings
) -> Archetypes:
    """Solve for checked filters, with matrix products on as many threads as they now have."""
    points = distinct_points(X, sample_weight)
    if settings.coreset_size is None or settings.coreset_size >= len(points.X):
        found = solve(points.problem(), n_archetypes, settings)
        return replace(found, archetypes=mixtures(found.weights, X))
    return _from_coreset(points, n_archetypes, settings)


def solve(problem: Problem, n_archetypes: int, settings: Settings) -> Archetypes:
    """Solve a prepared problem and hand the answer back in the caller's order."""
    # Imported here because numba is slow to import.
    from filtersurgeon.archetypes.alternation import alternate

    picks, unique = first_picks(problem, n_archetypes, settings)
    if settings.device is None:
        ended = alternate(problem, picks, settings.tol, settings.max_iter)
    else:
        from filtersurgeon.archetypes.torch_alternation import alternate_together

        ended = alternate_together([problem], [picks], settings)[0]
    return polished(problem, ended, unique)


def first_picks(problem: Problem, n_archetypes: int, settings: Settings) -> tuple[Integers, bool]:
    """Give the filters to start from, and whether coefficients can be unique."""
    from filtersurgeon.archetypes.start import first_archetypes

    if n_archetypes < 1:
        raise OptionError(f"at least one archetype is needed, not {n_archetypes}")
    d = min(n_archetypes, int(np.count_nonzero(problem.mass)))
    return first_archetypes(problem, d, settings)


def polished(problem: Problem, ended: Alternation, unique: bool) -> Archetypes:
    """Take the archetypes as they are and bring A to its exact optimum for them."""
    from filtersurgeon.archetypes.kernels import polish_coefficients

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
        archetypes=np.empty((len(B), 0)),
        objective=objective,
        relative_error=_root_share(objective, problem.spread),
        n_iter=len(ended.history),
        converged=ended.converged,
        history=ended.history,
        coefficients_unique=unique,
    )


def _from_coreset(points: Points, n_archetypes: int, settings: Settings) -> Archetypes:
    """Find archetypes from a sample of the filters, and model all filters by them."""
    chosen, mass = coreset(points.X, points.mass, settings)
    sample = replace(points, X=points.X[chosen], mass=mass, members=np.arange(len(chosen)))
    found = solve(sample.problem(), n_archetypes, settings)
    Z = mixtures(found.weights, sample.X)
    A = closest_mixtures(points.X, Z)
    B = np.zeros((found.n_archetypes, len(points.X)))
    B[:, chosen] = found.weights.T
    objective = float(points.mass @ ((points.X - A @ Z) ** 2).sum(axis=1))
    spread = float(points.mass @ (points.X**2).sum(axis=1))
    return replace(
        found,
        coefficients=A[points.members].T,
        weights=_shared_among_copies(B, points.members),
        archetypes=Z + points.mean,
        objective=objective,
        relative_error=_root_share(objective, spread),
    )


def coreset(X: Floats, mass: Floats, settings: Settings) -> tuple[Integers, Floats]:
    """Draw filters in proportion to their squared distance to the mean.

    Algorithm 2 of Mair and Brefeld 2019, "Coresets for archetypal analysis"; a filter that is
    drawn twice counts twice.

    Args:
        X: centred filters (n, l).
        mass: their weights in the objective (n,).
        settings: the size and the seed.

    Returns:
        Positions of the filters drawn (m,), and the weights that make the sample's objective
        an unbiased estimate (m,).
    """
    share = mass * np.einsum("nl,nl->n", X, X)
    share = share / share.sum()
    generator = np.random.default_rng(settings.random_state)
    drawn = generator.choice(len(X), size=settings.coreset_size, p=share)
    chosen, times = np.unique(drawn, return_counts=True)
    return chosen, times * mass[chosen] / (len(drawn) * share[chosen])


def _root_share(objective: float, spread: float) -> float:
    return float(np.sqrt(objective / spread)) if spread else 0.0


def mixtures(weights: Floats, X: Floats) -> Floats:
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
