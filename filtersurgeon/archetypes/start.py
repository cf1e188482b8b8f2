"""Which filters the archetypes start from."""

from __future__ import annotations

import numpy as np

from filtersurgeon.archetypes.kernels import update_coefficients
from filtersurgeon.archetypes.problem import Problem
from filtersurgeon.archetypes.result import Floats, Integers
from filtersurgeon.archetypes.settings import Settings

# Squared norms below this share of the largest are what rounding leaves of zero.
_NOTHING = 1e-11
# Pair steps per filter to see how far it is from a hull.
_STEPS = 40


def first_archetypes(
    problem: Problem, n_archetypes: int, settings: Settings
) -> tuple[Integers, bool]:
    """Choose the filters to start from.

    Returns:
        Positions of distinct filters of positive mass (n_archetypes,), and whether that many
        points can be affinely independent among these filters.
    """
    picks = successive_projection(problem, n_archetypes)
    independent = len(picks) >= n_archetypes - 1
    if settings.init == "furthest-sum":
        return furthest_sum(problem, n_archetypes, settings.random_state), independent
    if settings.init == "convex-hull":
        picks = picks[:1]
    return extended_by_hull(problem, picks, n_archetypes), independent


def successive_projection(problem: Problem, n_archetypes: int) -> Integers:
    """Take the filter farthest from the span of those taken, again and again.

    The successive projection algorithm (Araujo et al. 2001; Gillis and Vavasis 2014) about the
    mean, which in the Gram domain is a Cholesky factorisation with diagonal pivoting.

    Returns:
        Positions of distinct filters, fewer than asked for once nothing is left to project.
    """
    left = np.where(problem.mass > 0, problem.gram.diagonal(), 0.0)
    nothing = _NOTHING * left.max()
    rows = np.empty((n_archetypes, problem.size))
    picks: list[int] = []
    for k in range(n_archetypes):
        pick = int(np.argmax(left))
        if left[pick] <= nothing:
            break
        row = problem.gram[pick] - rows[:k, pick] @ rows[:k]
        rows[k] = row / np.sqrt(row[pick])
        left -= rows[k] ** 2
        left[pick] = 0.0
        picks.append(pick)
    return np.array(picks, dtype=np.intp)


def furthest_sum(problem: Problem, n_archetypes: int, random_state: int) -> Integers:
    """Take the filter with the largest summed distance to those taken, again and again.

    FurthestSum (Morup and Hansen 2012), begun at a filter drawn at random by weight, which is
    given up for a better one at the end.

    Returns:
        Positions of distinct filters (n_archetypes,).
    """
    generator = np.random.default_rng(random_state)
    picks = [int(generator.choice(problem.size, p=problem.mass / problem.mass.sum()))]
    total = distances_to(problem, picks[0])
    taken = problem.mass == 0
    taken[picks] = True
    for k in range(1, n_archetypes + 1):
        if k == n_archetypes:
            total -= distances_to(problem, picks[0])
            taken[picks.pop(0)] = False
        picks.append(int(np.argmax(np.where(taken, -1.0, total))))
        taken[picks[-1]] = True
        total += distances_to(problem, picks[-1])
    return np.array(picks, dtype=np.intp)


def extended_by_hull(problem: Problem, picks: Integers, n_archetypes: int) -> Integers:
    """Add the filters that lie farthest from the convex hull of those picked, some at a time.

    Projection ends when the span is full, but a hull has more corners than its span dimensions.
    """
    if not len(picks):
        picks = np.array([np.argmax(problem.mass)])
    while len(picks) < n_archetypes:
        left = np.where(problem.mass > 0, _squared_distance_to_hull(problem, picks), 0.0)
        left[picks] = -1.0
        added: list[int] = []
        for _ in range(min(n_archetypes - len(picks), 1 + len(picks) // 8)):
            added.append(int(np.argmax(left)))
            left = np.minimum(left, distances_to(problem, added[-1]) ** 2)
            left[added] = -1.0
        picks = np.append(picks, added)
    return picks


def _squared_distance_to_hull(problem: Problem, picks: Integers) -> Floats:
    """Squared distances of all distinct filters to the hull of some, nearly (n,)."""
    C = np.ascontiguousarray(problem.gram[:, picks])
    H = np.ascontiguousarray(C[picks])
    A = np.zeros_like(C)
    nearest = np.argmin(H.diagonal() - 2 * C, axis=1)
    A[np.arange(problem.size), nearest] = 1.0
    errors, _ = update_coefficients(A, C, H, problem.gram.diagonal(), _STEPS, 0.0)
    return errors


def distances_to(problem: Problem, position: int) -> Floats:
    """Euclidean distances of all distinct filters to one of them (n,)."""
    norms = problem.gram.diagonal()
    squared = norms + norms[position] - 2 * problem.gram[position]
    return np.sqrt(np.maximum(squared, 0.0))
