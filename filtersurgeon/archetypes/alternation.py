"""The alternating solution for A and B in the Gram domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from filtersurgeon.archetypes.kernels import (
    add_sparse_product,
    coefficient_products,
    extrapolate_coefficients,
    extrapolate_weights,
    update_coefficients,
    update_weights,
)
from filtersurgeon.archetypes.problem import Floats, Problem, nearest_only
from filtersurgeon.archetypes.start import Start

# Pair steps per row of B and sweep.
STEPS_B = 5
# Archetypes updated between two matrix products.
BLOCK = 32
# Share of the spread that the joint duality gap may keep, as a multiple of `tol`.
GAP = 100.0
# How far ahead sweeps look at first and at most, as a multiple of the last sweep's way.
MOMENTUM = 1.0
# Share of the spread below which an objective is so small that its own size stops to matter.
SMALL = 1e-3
# Share of the spread below which an objective is what rounding leaves of zero.
EXACT = 1e-14
# Share of non-zeros in A up to which adding rows of the Gram matrix beats a product.
_SPARSE = 0.1
# Errors below this share of the spread are rounding.
NOTHING = 1e-12


@dataclass(frozen=True)
class Care:
    """How closely A follows the archetypes in every sweep.

    Attributes:
        first_steps: pair steps per column in the first sweep, from a single archetype to where the
            column belongs.
        steps: pair steps per column later, to follow a column that changes little.
        near: share of the permitted gap that a column may keep while others are improved.
    """

    first_steps: int
    steps: int
    near: float


CAREFUL = Care(100, 10, 1e-3)
# Enough to compare solutions that are not finished yet.
ROUGH = Care(12, 3, 0.1)


@dataclass
class State:
    """Where an alternation stands; row n of A and row j of B are on simplices.

    Attributes:
        A: coefficients (n, d).
        B: weights (d, n).
        GB: B times the Gram matrix (d, n).
    """

    A: Floats
    B: Floats
    GB: Floats

    def copy(self) -> State:
        """Give a state that shares nothing with this one."""
        return State(self.A.copy(), self.B.copy(), self.GB.copy())


@dataclass(frozen=True)
class Alternation:
    """Where an alternation ended.

    Attributes:
        state: the solution.
        history: objective before every update of B.
        converged: whether the stopping rule was met.
    """

    state: State
    history: tuple[float, ...]
    converged: bool


def alternate(
    problem: Problem, start: Start, tol: float, max_iter: int, care: Care = CAREFUL
) -> Alternation:
    """Improve archetypes from a start until the rule in `Settings` is met."""
    return alternate_from(problem, first_state(problem, start), tol, max_iter, care)


def alternate_from(
    problem: Problem, state: State, tol: float, max_iter: int, care: Care = CAREFUL
) -> Alternation:
    """Improve archetypes until the rule in `Settings` is met.

    Each sweep begins ahead of the last solution, on the line from the one before it, and goes
    back there when that did not pay (extrapolation as by Ang and Gillis 2019 for factorisations).
    """
    previous = state
    history: list[float] = []
    momentum = MOMENTUM
    near = care.near * GAP * tol * problem.spread / problem.mass.sum()
    for _ in range(max_iter):
        steps = care.steps if history else care.first_steps
        ahead = _ahead(problem, state, previous, momentum) if len(history) > 1 else state.copy()
        objective, gap = _sweep_coefficients(problem, ahead, near, steps)
        momentum = min(MOMENTUM, 1.1 * momentum)
        if history and objective > history[-1]:
            momentum /= 2.0
            ahead = state.copy()
            objective, gap = _sweep_coefficients(problem, ahead, near, steps)
        history.append(objective)
        gap += _sweep_weights(problem, ahead)
        previous, state = state, ahead
        least = tol * max(objective, SMALL * problem.spread)
        slow = len(history) > 1 and history[-2] - objective <= least
        exact = objective <= EXACT * problem.spread
        if exact or (slow and gap <= GAP * tol * problem.spread):
            return Alternation(state, tuple(history), converged=True)
    return Alternation(state, tuple(history), converged=False)


def first_state(problem: Problem, start: Start) -> State:
    """Put archetypes at the picked filters, and model every filter by the nearest of them."""
    picks = start.picks
    d, n = len(picks), problem.size
    B = np.zeros((d, n))
    B[np.arange(d), picks] = 1.0
    GB = problem.gram[picks]
    A = nearest_only(GB.T, problem.gram.diagonal()[picks])
    state = State(A, B, GB)
    if start.settle:
        _sweep_weights(problem, state)
    return state


def _ahead(problem: Problem, state: State, previous: State, momentum: float) -> State:
    """Go on from `state` in the direction from `previous`, without leaving the simplices."""
    A = extrapolate_coefficients(state.A, previous.A, momentum)
    B, GB = extrapolate_weights(state.B, state.GB, previous.B, previous.GB, problem.gram, momentum)
    return State(A, B, GB)


def _sweep_coefficients(
    problem: Problem, state: State, near: float, steps: int
) -> tuple[float, float]:
    """Improve A for the present archetypes; give the objective and A's part of the gap."""
    C = np.ascontiguousarray(state.GB.T)
    H = np.zeros((len(state.B), len(state.B)))
    add_sparse_product(state.B, C, H)
    norms = problem.gram.diagonal()
    errors, gaps = update_coefficients(state.A, C, H, norms, steps, near)
    errors *= problem.mass
    objective = max(0.0, float(errors.sum()))
    if _move_unused(problem, state, errors):
        return objective, np.inf
    return objective, 2.0 * float(problem.mass @ gaps)


def _move_unused(problem: Problem, state: State, errors: Floats) -> bool:
    """Put archetypes that model no filter onto the worst modelled filters, which costs nothing."""
    unused = np.flatnonzero(problem.mass @ state.A == 0.0)
    if not len(unused):
        return False
    worst = np.argsort(-errors, kind="stable")[: len(unused)]
    unused = unused[errors[worst] > NOTHING * problem.spread]
    worst = worst[: len(unused)]
    state.B[unused] = 0.0
    state.B[unused, worst] = 1.0
    state.GB[unused] = problem.gram[worst]
    return len(unused) > 0


def _sweep_weights(problem: Problem, state: State) -> float:
    """Improve one archetype after the other for the present A; give B's part of the gap."""
    M, Q = _coefficient_products(problem, state.A)
    gap = 0.0
    for start in range(0, len(M), BLOCK):
        block = slice(start, start + BLOCK)
        B, GB = state.B[block], state.GB[block]
        gradient = M[block] @ state.GB - Q[block]
        gap += float(np.einsum("dn,dn->", B, gradient) - gradient.min(axis=1).sum())
        inner = np.ascontiguousarray(M[block, block])
        update_weights(B, GB, gradient, problem.gram, inner, STEPS_B)
    return 2.0 * gap


def _coefficient_products(problem: Problem, A: Floats) -> tuple[Floats, Floats]:
    """Give A^T W A (d, d) and A^T W G (d, n) by way of the zeros of A, if these are many."""
    if np.count_nonzero(A) >= _SPARSE * A.size:
        weighted = np.ascontiguousarray((A * problem.mass[:, None]).T)
        return weighted @ A, problem.multiply(weighted)
    d = A.shape[1]
    M, Q = np.zeros((d, d)), np.zeros((d, problem.size))
    coefficient_products(A, problem.mass, problem.gram, M, Q)
    return M, Q
