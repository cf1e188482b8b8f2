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
    ROUGH,
    Alternation,
    State,
    alternate,
    alternate_from,
)
from filtersurgeon.archetypes.kernels import removal_costs
from filtersurgeon.archetypes.problem import Floats, Integers, Problem, Settings, nearest_only
from filtersurgeon.archetypes.start import NARROW, Start, first_picks

# Archetypes too many at first, and how many of them go between two alternations: in narrow layers,
# in wider ones with few archetypes, in those with many, and in those with many that are so wide
# that each way takes long. Chosen on the layers of the benchmark.
_NARROW_WAYS = ((3, 1), (6, 3))
_FEW = 16
_WAYS_TO_FEW = ((3, 1), (6, 2), (12, 3))
_WAYS_TO_MANY = ((6, 2), (12, 3), (18, 3))
_WIDE = 768
_WAYS_OF_WIDE = ((12, 4), (24, 6))
# Sweeps at first, between two removals, and after the last one.
SWEEPS = 8
SWEEPS_BETWEEN = 4
SWEEPS_LAST = 4
# Pair steps by which a filter is modelled anew without an archetype.
STEPS = 3


@dataclass(frozen=True)
class Plan:
    """What is tried in a layer.

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
    few = d <= _FEW
    ways: Sequence[tuple[int, int]] = ()
    if problem.size <= NARROW:
        ways = _NARROW_WAYS
    elif not starts[0].settle:
        ways = _WAYS_OF_WIDE if problem.size > _WIDE else _WAYS_TO_MANY
        ways = _WAYS_TO_FEW if few else ways
    if not ways:
        return Plan(tuple(starts), (), d)
    ways = [(min(room, extra), step) for extra, step in ways]
    most = d + max(extra for extra, _ in ways)
    picks = first_picks(problem, most, settings)
    eliminations = (
        (Start(_first_of(picks, problem, d + extra, settings), settle=False), step)
        for extra, step in ways
    )
    plain = starts if few or problem.size <= NARROW else ()
    return Plan(tuple(plain), tuple(eliminations), d)


def _first_of(picks: Integers, problem: Problem, count: int, settings: Settings) -> Integers:
    """Give what `first_picks` gives for `count`, from the picks of a greater number."""
    # `furthest_sum` gives up its first pick at the end, so fewer picks are others.
    if settings.init == "furthest-sum":
        return first_picks(problem, count, settings)
    return picks[:count]


def search(problem: Problem, plan: Plan, settings: Settings) -> list[Alternation]:
    """Do what is planned for a layer; give the solutions found.

    In narrow layers every solution is finished, in wide ones only the best.
    """
    tol, most = settings.tol, settings.max_iter
    eliminated = [
        eliminate(problem, start, plan.n_archetypes, step, tol) for start, step in plan.eliminations
    ]
    if problem.size <= NARROW or not eliminated:
        found = [alternate(problem, start, tol, most) for start in plan.starts]
        return found + [alternate_from(problem, each.state, tol, most) for each in eliminated]
    begun = [alternate(problem, start, tol, min(SWEEPS, most)) for start in plan.starts]
    return [alternate_from(problem, best_of(begun + eliminated).state, tol, most)]


def best_of(tries: Sequence[Alternation]) -> Alternation:
    """Give the solution with the smallest objective, of equal ones the first."""
    return min(tries, key=lambda ended: ended.history[-1])


def eliminate(
    problem: Problem, start: Start, n_archetypes: int, step: int, tol: float
) -> Alternation:
    """Alternate from a start of too many archetypes until as many are left as are wanted.

    Args:
        problem: the filters.
        start: where to begin.
        n_archetypes: how many archetypes are left at the end.
        step: how many go between two alternations.
        tol: as in `Settings`.

    Returns:
        A solution that can be compared with others, but is not finished.
    """
    ended = alternate(problem, start, tol, SWEEPS, ROUGH)
    while len(ended.state.B) > n_archetypes:
        state = ended.state
        costs = costs_of_removal(problem, state)
        for _ in range(min(step, len(state.B) - n_archetypes)):
            least = int(np.argmin(costs))
            state, costs = without(state, least), np.delete(costs, least)
        sweeps = SWEEPS_LAST if len(state.B) == n_archetypes else SWEEPS_BETWEEN
        ended = alternate_from(problem, state, tol, sweeps, ROUGH)
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
