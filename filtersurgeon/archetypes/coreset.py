"""Archetypes from a weighted sample of the filters, for layers too wide for a Gram matrix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from filtersurgeon.archetypes.problem import Points
from filtersurgeon.archetypes.result import Archetypes, Floats, Integers
from filtersurgeon.archetypes.settings import Settings
from filtersurgeon.archetypes.solver import (
    closest_mixtures,
    mixtures,
    root_share,
    shared_among_copies,
    solve,
)


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
        weights=shared_among_copies(B, points.members),
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
