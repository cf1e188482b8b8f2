"""Choose the filters that the archetypes start from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import numpy as np

from filtersurgeon.archetypes.kernels import update_coefficients
from filtersurgeon.archetypes.problem import Floats, Integers, Problem, Settings, nearest_only
from filtersurgeon.errors import OptionError

# Squared norms below this share of the largest are what rounding leaves of zero.
_NOTHING = 1e-11
# Share of the spread outside the span of extreme filters from which on starts settle.
_OUTSIDE = 0.3
# Starts to try in layers of up to so many filters.
_STARTS = 4
NARROW = 128
# Pair steps per filter to see how far it is from a hull, and from one that grew a little.
_STEPS = 40
_MORE_STEPS = 10


@dataclass(frozen=True)
class Start:
    """Where an alternation begins.

    Attributes:
        picks: positions of distinct filters of positive mass (d,).
        settle: whether the archetypes first move for the filters nearest to them. Among points
            that are nearly all corners of their hull this leads to better solutions, because
            archetypes that start as mixtures of several filters stay so.
    """

    picks: Integers
    settle: bool


def first_starts(
    problem: Problem, n_archetypes: int, settings: Settings
) -> tuple[list[Start], bool]:
    """Choose where to start from, as often as the settings say.

    Returns:
        The starts, that of `settings.init` first, and whether `n_archetypes` points can be
        affinely independent among these filters. Starts settle where the extreme filters span
        little of the others, and are then also tried unsettled.
    """
    if n_archetypes < 1:
        raise OptionError(f"at least one archetype is needed, not {n_archetypes}")
    d = min(n_archetypes, int(np.count_nonzero(problem.mass)))
    extremes, left = successive_projection(problem, d)
    independent = len(extremes) >= d - 1
    wanted = settings.n_init or (_STARTS if problem.size <= NARROW else 1)
    every = _endless_picks(problem, d, extremes, settings)
    ways = (True, False) if left > _OUTSIDE else (False,)
    starts = (Start(picks, settle) for picks in every for settle in ways)
    return list(islice(starts, wanted)), independent


def _endless_picks(
    problem: Problem, d: int, extremes: Integers, settings: Settings
) -> Iterator[Integers]:
    """Give the picks of `settings.init`, then of the other kinds, the random one for ever."""
    if settings.init != "furthest-sum":
        kinds = [extremes, extremes[:1]]
        for kind in kinds if settings.init == "successive-projection" else reversed(kinds):
            yield extend_by_hull(problem, kind, d)
    for k in count():
        yield furthest_sum(problem, d, np.random.default_rng([settings.random_state, k]))


def first_picks(problem: Problem, count: int, settings: Settings) -> Integers:
    """Pick filters far from each other: by the hull of those before, or by `furthest_sum`."""
    if settings.init == "furthest-sum":
        return furthest_sum(problem, count, np.random.default_rng([settings.random_state, 0]))
    longest = np.argmax(np.where(problem.mass > 0, problem.gram.diagonal(), -1.0))
    return extend_by_hull(problem, np.array([longest]), count)


def successive_projection(problem: Problem, n_archetypes: int) -> tuple[Integers, float]:
    """Take the filter farthest from the span of those taken, again and again.

    The successive projection algorithm (Araujo et al. 2001; Gillis and Vavasis 2014) about the
    mean, which in the Gram domain is a Cholesky factorisation with diagonal pivoting.

    Returns:
        Positions of distinct filters, fewer than asked for once nothing is left to project, and
        the share of the spread that lies outside their span.
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
    outside = float(problem.mass @ np.maximum(left, 0.0)) / (problem.spread or 1.0)
    return np.array(picks, dtype=np.intp), outside


def furthest_sum(problem: Problem, n_archetypes: int, generator: np.random.Generator) -> Integers:
    """Take the filter with the largest summed distance to those taken, again and again.

    FurthestSum (Morup and Hansen 2012), begun at a filter drawn at random by weight, which is
    given up for a better one at the end.

    Returns:
        Positions of distinct filters (n_archetypes,).
    """
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


def extend_by_hull(problem: Problem, picks: Integers, n_archetypes: int) -> Integers:
    """Add the filters that lie farthest from the convex hull of those picked, some at a time.

    Projection ends when the span is full, but a hull has more corners than its span dimensions.
    """
    if not len(picks):
        picks = np.array([np.argmax(problem.mass)])
    A = np.zeros((problem.size, 0))
    while len(picks) < n_archetypes:
        A, errors = _model_by(problem, picks, A)
        left = np.where(problem.mass > 0, errors, 0.0)
        left[picks] = -1.0
        added: list[int] = []
        for _ in range(min(n_archetypes - len(picks), 1 + len(picks) // 8)):
            added.append(int(np.argmax(left)))
            left = np.minimum(left, distances_to(problem, added[-1]) ** 2)
            left[added] = -1.0
        picks = np.append(picks, added)
    return picks


def _model_by(problem: Problem, picks: Integers, before: Floats) -> tuple[Floats, Floats]:
    """Go on from the mixtures `before` of the first picks to nearly the best ones of all.

    Returns:
        The mixtures (n, d), and the squared distances of all distinct filters to them (n,).
    """
    C = np.ascontiguousarray(problem.gram[:, picks])
    H = np.ascontiguousarray(C[picks])
    if before.shape[1]:
        A, steps = np.zeros_like(C), _MORE_STEPS
        A[:, : before.shape[1]] = before
    else:
        A, steps = nearest_only(C, H.diagonal()), _STEPS
    errors, _ = update_coefficients(A, C, H, problem.gram.diagonal(), steps, 0.0)
    return A, errors


def distances_to(problem: Problem, position: int) -> Floats:
    """Euclidean distances of all distinct filters to one of them (n,)."""
    norms = problem.gram.diagonal()
    squared = norms + norms[position] - 2 * problem.gram[position]
    return np.sqrt(np.maximum(squared, 0.0))
