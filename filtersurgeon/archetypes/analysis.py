"""Archetypal analysis of the filters of one layer, or of many layers at once.

Layers too wide for a Gram matrix are analysed from a weighted sample of their filters.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike

from filtersurgeon.archetypes.problem import (
    Archetypes,
    Floats,
    Integers,
    Options,
    Points,
    Settings,
    check_filters,
    distinct_points,
    problem_from_gram,
)
from filtersurgeon.archetypes.solver import (
    closest_mixtures,
    mixtures,
    polish,
    root_share,
    share_among_copies,
    single_threaded_blas,
    solve,
)
from filtersurgeon.errors import OptionError


def from_coreset(points: Points, n_archetypes: int, settings: Settings) -> Archetypes:
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
        weights=share_among_copies(B, points.members),
        archetypes=Z + points.mean,
        objective=objective,
        relative_error=root_share(objective, spread),
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
        return analyse(check_filters(filters), n_archetypes, sample_weight, settings)


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


def archetypal_analysis_batch(
    layers: Sequence[ArrayLike],
    n_archetypes: int | Sequence[int],
    *,
    n_threads: int | None = None,
    **options: Unpack[Options],
) -> list[Archetypes]:
    """Find archetypes of several layers, as `archetypal_analysis` does of each.

    On the CPU the layers are shared out among threads, the widest first. On a PyTorch device
    layers of as many distinct filters and archetypes go through the sweeps together.

    Args:
        layers: matrices (N, l) with one flattened filter per row.
        n_archetypes: for all layers, or one number for each.
        n_threads: threads on the CPU; one per processor by default. The results do not depend
            on it.
        **options: as in `archetypal_analysis`.

    Returns:
        The archetypes of each layer, in order.

    Raises:
        LayerError: a layer that `archetypal_analysis` refuses.
        OptionError: unusable options, or not one number of archetypes per layer.
    """
    settings = Settings(**options)
    counts = [n_archetypes] * len(layers) if isinstance(n_archetypes, int) else list(n_archetypes)
    if len(counts) != len(layers):
        raise OptionError(f"{len(layers)} layers, but {len(counts)} numbers of archetypes")
    matrices = [check_filters(layer) for layer in layers]
    with single_threaded_blas():
        if settings.device is not None and settings.coreset_size is None:
            return _together(matrices, counts, settings)
        with ThreadPoolExecutor(n_threads or os.cpu_count()) as pool:
            waiting = {
                k: pool.submit(analyse, matrices[k], counts[k], None, settings)
                for k in sorted(range(len(counts)), key=lambda k: -len(matrices[k]))
            }
            return [waiting[k].result() for k in range(len(counts))]


def _together(matrices: list[Floats], counts: list[int], settings: Settings) -> list[Archetypes]:
    """Solve layers of equal size side by side on a PyTorch device."""
    from filtersurgeon.archetypes.elimination import best_of, plan_search
    from filtersurgeon.archetypes.start import first_starts
    from filtersurgeon.archetypes.torch_search import search_together

    problems = [distinct_points(X, None).problem() for X in matrices]
    starts = [
        first_starts(problem, count, settings)
        for problem, count in zip(problems, counts, strict=True)
    ]
    plans = [
        plan_search(problem, tried, settings)
        for problem, (tried, _) in zip(problems, starts, strict=True)
    ]
    tries = search_together(problems, plans, settings)
    found = [polish(problem, best_of(tries[k]), starts[k][1]) for k, problem in enumerate(problems)]
    return [
        replace(answer, archetypes=mixtures(answer.weights, X))
        for answer, X in zip(found, matrices, strict=True)
    ]
