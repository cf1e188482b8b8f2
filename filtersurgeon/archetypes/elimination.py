"""Start with more archetypes than are wanted, and remove those that are missed least.

Alternation ends in a local optimum that depends on its start. Among wide layers, one start in a few
leads to a good one. Beginning with some archetypes too many, and removing them while the others
move, leads there from one start.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from filtersurgeon.archetypes.alternation import (
    NOTHING,
    Alternation,
    State,
    alternate,
    alternate_from,
)
from filtersurgeon.archetypes.kernels import removal_costs
from filtersurgeon.archetypes.problem import Floats, Problem, Settings, nearest_only
from filtersurgeon.archetypes.start import Start, first_picks

# Archetypes too many at first, in layers of few and of many archetypes.
_MORE_OF_FEW, _MORE_OF_MANY = 4, 6
_FEW = 16
# Filters up to which archetypes go one by one, else in pairs.
_ONE_BY_ONE = 768
# Filters up to which many archetypes are searched for once more, from so many too many, so many of
# which go between two alternations. Beyond, that would take too long.
_TWICE = 512
_MORE_AGAIN, _STEP_AGAIN = 18, 6
# Archetypes too many at first in narrow layers, and how many go between two alternations.
_NARROW_WAYS = ((3, 1), (6, 2))
_SWEEPS = 8
_SWEEPS_BETWEEN = 4
# Pair steps by which a filter is modelled anew without an archetype.
_STEPS = 8


def search(problem: Problem, start: Start, settings: Settings) -> list[Alternation]:
    """Search for good archetypes of a wide layer, in about the time of two alternations.

    Args:
        problem: the filters, more than archetypes.
        start: where an alternation without elimination begins. Where archetypes are few, it is
            tried, too.
        settings: how to solve.

    Returns:
        The solutions found.
    """
    d, tol, most = len(start.picks), settings.tol, settings.max_iter
    few = d <= _FEW
    room = int(np.count_nonzero(problem.mass)) - d
    ways = [(_MORE_OF_FEW if few else _MORE_OF_MANY, 1 if problem.size <= _ONE_BY_ONE else 2)]
    if not few and problem.size <= _TWICE:
        ways.append((_MORE_AGAIN, _STEP_AGAIN))
    found = [alternate(problem, start, tol, most)] if few or not room else []
    return found + _eliminate_from(problem, d, ways if room else [], settings)


def search_narrow(
    problem: Problem, starts: Sequence[Start], settings: Settings
) -> list[Alternation]:
    """Search a layer of few filters from several starts, and from two of too many archetypes.

    Args:
        problem: the filters.
        starts: where alternations without elimination begin.
        settings: how to solve.

    Returns:
        The solutions found.
    """
    d = len(starts[0].picks)
    found = [alternate(problem, start, settings.tol, settings.max_iter) for start in starts]
    room = int(np.count_nonzero(problem.mass)) - d
    return found + _eliminate_from(problem, d, _NARROW_WAYS if room else [], settings)


def _eliminate_from(
    problem: Problem, d: int, ways: Sequence[tuple[int, int]], settings: Settings
) -> list[Alternation]:
    """Eliminate in several ways, each so many archetypes too many and so many at a time."""
    room = int(np.count_nonzero(problem.mass)) - d
    starts = [first_picks(problem, d + min(room, extra), settings) for extra, _ in ways]
    return [
        eliminate(problem, Start(picks, settle=False), d, step, settings.tol, settings.max_iter)
        for picks, (_, step) in zip(starts, ways, strict=True)
    ]


def eliminate(
    problem: Problem, start: Start, n_archetypes: int, step: int, tol: float, max_iter: int
) -> Alternation:
    """Alternate from a start of too many archetypes until as many are left as are wanted.

    Args:
        problem: the filters.
        start: where to begin.
        n_archetypes: how many archetypes are left at the end.
        step: how many go between two alternations.
        tol: as in `Settings`.
        max_iter: likewise, of the last alternation, when all others are removed.
    """
    state = alternate(problem, start, tol, _SWEEPS).state
    while len(state.B) > n_archetypes:
        costs = costs_of_removal(problem, state)
        for _ in range(min(step, len(state.B) - n_archetypes)):
            least = int(np.argmin(costs))
            state, costs = without(state, least), np.delete(costs, least)
        last = len(state.B) == n_archetypes
        ended = alternate_from(problem, state, tol, max_iter if last else _SWEEPS_BETWEEN)
        state = ended.state
    return ended


def costs_of_removal(problem: Problem, state: State) -> Floats:
    """Estimate how much the objective rises without each archetype, (d,)."""
    C = np.ascontiguousarray(state.GB.T)
    H = np.ascontiguousarray(state.B @ C)
    return removal_costs(state.A, C, H, problem.mass, _STEPS)


def without(state: State, archetype: int) -> State:
    """Take an archetype away; filters that only it modelled are modelled by the nearest."""
    left = np.arange(len(state.B)) != archetype
    A, B, GB = state.A[:, left], state.B[left], state.GB[left]
    total = A.sum(axis=1)
    alone = total <= NOTHING
    if alone.any():
        A[alone] = nearest_only(GB.T[alone], np.einsum("dn,dn->d", B, GB))
        total[alone] = 1.0
    return State(np.ascontiguousarray(A / total[:, None]), B, GB)
