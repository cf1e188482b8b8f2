"""Start with more archetypes than are wanted, and remove those that are missed least.

Alternation ends in a local optimum that depends on its start. Among wide layers, one start in a few
leads to a good one. Beginning with some archetypes too many, and removing them while the others
move, leads there from one start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from filtersurgeon.archetypes.start import NARROW, Start, first_picks

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
SWEEPS = 8
SWEEPS_BETWEEN = 4
# Pair steps by which a filter is modelled anew without an archetype.
STEPS = 8


@dataclass(frozen=True)
class Plan:
    """What is tried in a layer, in about the time of two alternations.

    Attributes:
        starts: where alternations without elimination begin.
        eliminations: where those begin that have too many archetypes, and how many of these go at
            a time.
        n_archetypes: how many archetypes are left at the end.
    """

    starts: tuple[Start, ...]
    eliminations: tuple[tuple[Start, int], ...]
    n_archetypes: int


def plan_search(problem: Problem, starts: Sequence[Start], settings: Settings) -> Plan:
    """Decide what is tried, by the width of a layer and the number of archetypes.

    Args:
        problem: the filters.
        starts: from `first_starts`.
        settings: how to solve. A stated number of starts leaves eliminations out.
    """
    d = len(starts[0].picks)
    room = int(np.count_nonzero(problem.mass)) - d
    if settings.n_init is not None or not room:
        return Plan(tuple(starts), (), d)
    plain: Sequence[Start] = starts
    ways: Sequence[tuple[int, int]] = ()
    if problem.size <= NARROW:
        ways = _NARROW_WAYS
    elif not starts[0].settle:
        few = d <= _FEW
        plain = starts if few else ()
        ways = ((_MORE_OF_FEW if few else _MORE_OF_MANY, 1 if problem.size <= _ONE_BY_ONE else 2),)
        if not few and problem.size <= _TWICE:
            ways = (*ways, (_MORE_AGAIN, _STEP_AGAIN))
    eliminations = (
        (Start(first_picks(problem, d + min(room, extra), settings), settle=False), step)
        for extra, step in ways
    )
    return Plan(tuple(plain), tuple(eliminations), d)


def search(problem: Problem, plan: Plan, settings: Settings) -> list[Alternation]:
    """Do what is planned for a layer; give the solutions found."""
    tol, most = settings.tol, settings.max_iter
    found = [alternate(problem, start, tol, most) for start in plan.starts]
    return found + [
        eliminate(problem, start, plan.n_archetypes, step, tol, most)
        for start, step in plan.eliminations
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
    state = alternate(problem, start, tol, SWEEPS).state
    while len(state.B) > n_archetypes:
        costs = costs_of_removal(problem, state)
        for _ in range(min(step, len(state.B) - n_archetypes)):
            least = int(np.argmin(costs))
            state, costs = without(state, least), np.delete(costs, least)
        last = len(state.B) == n_archetypes
        ended = alternate_from(problem, state, tol, max_iter if last else SWEEPS_BETWEEN)
        state = ended.state
    return ended


def costs_of_removal(problem: Problem, state: State) -> Floats:
    """Estimate how much the objective rises without each archetype, (d,)."""
    C = np.ascontiguousarray(state.GB.T)
    H = np.ascontiguousarray(state.B @ C)
    return removal_costs(state.A, C, H, problem.mass, STEPS)


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
