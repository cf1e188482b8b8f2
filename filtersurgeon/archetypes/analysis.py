"""Archetypal analysis of the filters of one layer."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from numpy.typing import ArrayLike

from filtersurgeon.archetypes.coreset import from_coreset
from filtersurgeon.archetypes.problem import checked_filters, distinct_points, problem_from_gram
from filtersurgeon.archetypes.result import Archetypes, Floats
from filtersurgeon.archetypes.settings import Options, Settings
from filtersurgeon.archetypes.solver import mixtures, single_threaded_blas, solve
from filtersurgeon.errors import OptionError


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
        **options: `init`, `n_init`, `tol`, `max_iter`, `random_state`, `coreset_size` and
            `device`; see `Settings`.

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


def analyse(
    X: Floats, n_archetypes: int, sample_weight: ArrayLike | None, settings: Settings
) -> Archetypes:
    """Solve for checked filters, with matrix products on as many threads as they now have."""
    points = distinct_points(X, sample_weight)
    if settings.coreset_size is None or settings.coreset_size >= len(points.X):
        found = solve(points.problem(), n_archetypes, settings)
        return replace(found, archetypes=mixtures(found.weights, X))
    return from_coreset(points, n_archetypes, settings)
