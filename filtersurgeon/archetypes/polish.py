"""Compiled active-set method that makes coefficients an exact optimum; imported late."""

from __future__ import annotations

import numpy as np
from numba import njit

from filtersurgeon.archetypes.kernels import FAST, add_multiple
from filtersurgeon.archetypes.problem import Floats, Integers

# A pivot below this share of the largest diagonal entry counts as affinely dependent.
_DEPENDENT = 1e-11


@njit(cache=True, nogil=True, fastmath=FAST)
def _eliminate(H: Floats, used: Integers, known: int, count: int, L: Floats) -> int:
    """Go on with the Cholesky factor of the used points' Gram matrix about the first of them.

    Returns:
        ``count`` when the points are affinely independent, else the position of the first one
        that depends on those before it; its row of L is then filled up to the diagonal.
    """
    origin = used[0]
    for r in range(max(1, known), count):
        u = used[r]
        squared = 0.0
        for c in range(1, r + 1):
            v = used[c]
            value = (H[u, v] - H[u, origin]) - (H[v, origin] - H[origin, origin])
            squared = value
            for k in range(1, c):
                value -= L[r, k] * L[c, k]
            if c < r:
                L[r, c] = value / L[c, c]
            elif value <= _DEPENDENT * squared:
                return r
            else:
                L[r, r] = np.sqrt(value)
    return count


@njit(cache=True, nogil=True, fastmath=FAST)
def _back_substitute(L: Floats, count: int, y: Floats) -> None:
    """Solve L^T x = y for positions 1 to count - 1, in place."""
    for r in range(count - 1, 0, -1):
        y[r] /= L[r, r]
        for k in range(1, r):
            y[k] -= L[r, k] * y[r]


@njit(cache=True, nogil=True)
def _exchange(used: Integers, dependent: int, count: int, a: Floats, L: Floats, y: Floats) -> None:
    """Write into y a way along which the modelled filter stays where it is.

    It exists because the archetype at position `dependent` depends affinely on those before it,
    and ends where a coefficient vanishes, as in the proof of Caratheodory's theorem.
    """
    for r in range(1, dependent):
        y[r] = L[dependent, r]
    _back_substitute(L, dependent, y)
    y[0] = 1.0 - y[1:dependent].sum()
    y[dependent:count] = 0.0
    y[dependent] = -1.0
    if a[used[dependent]] == 0.0:
        y[:count] *= -1.0


@njit(cache=True, nogil=True, fastmath=FAST)
def _direction(
    H: Floats, c: Floats, used: Integers, count: int, a: Floats, L: Floats, y: Floats
) -> None:
    """Write into y the way from the used coefficients to their unconstrained optimum."""
    origin = used[0]
    total = 0.0
    for r in range(1, count):
        u = used[r]
        value = c[u] - c[origin] - H[u, origin] + H[origin, origin]
        for k in range(1, r):
            value -= L[r, k] * y[k]
        y[r] = value / L[r, r]
    _back_substitute(L, count, y)
    for r in range(1, count):
        total += y[r]
        y[r] -= a[used[r]]
    y[0] = 1.0 - total - a[origin]


@njit(cache=True, nogil=True)
def _advance(used: Integers, count: int, a: Floats, y: Floats, length: float) -> tuple[int, int]:
    """Go along y, but not out of the simplex.

    Returns:
        How many coordinates are still used, and how many of the first of them were not moved
        up in `used`; both are `count` at the end of the way.
    """
    stop = -1
    for r in range(count):
        if y[r] < 0.0 and a[used[r]] < -length * y[r]:
            length = a[used[r]] / -y[r]
            stop = r
    for r in range(count):
        a[used[r]] = max(0.0, a[used[r]] + length * y[r])
    if stop < 0:
        return count, count
    a[used[stop]] = 0.0
    kept = 0
    first = count
    for r in range(count):
        if a[used[r]] > 0.0:
            used[kept] = used[r]
            kept += 1
        else:
            first = min(first, r)
    return kept, first


@njit(cache=True, nogil=True)
def _worst(
    H: Floats, c: Floats, used: Integers, count: int, a: Floats, slope: Floats, tol: float
) -> int:
    """Find the unused coordinate that lowers the objective fastest, or -1 at an optimum."""
    slope[:] = 0.0
    for r in range(count):
        add_multiple(slope, a[used[r]], H[used[r]])
    slope -= c
    level = a @ slope
    lowest = level - tol
    worst = -1
    for k in range(c.size):
        if slope[k] < lowest and a[k] == 0.0:
            lowest = slope[k]
            worst = k
    return worst


@njit(cache=True, nogil=True)
def polish_coefficients(A: Floats, C: Floats, H: Floats, tol: float) -> None:
    """Bring every row of A (N, d) to the exact minimum of a H a - 2 c a over the simplex.

    An active-set method started from the rows' own non-zeros (Wolfe 1976, "Finding the nearest
    point in a polytope"). The used archetypes of every row end affinely independent.

    Args:
        A: coefficients (N, d), on simplices, updated in place.
        C: inner products of filters and archetypes (N, d).
        H: Gram matrix of the archetypes (d, d).
        tol: largest violation of the optimality conditions, in the units of H.
    """
    size = H.shape[0]
    used = np.empty(size, np.intp)
    L = np.empty((size, size))
    y = np.empty(size)
    slope = np.empty(size)
    for n in range(A.shape[0]):
        a, c = A[n], C[n]
        count = 0
        for k in range(size):
            if a[k] > 0.0:
                used[count] = k
                count += 1
        known = 0
        for _ in range(10 * size + 100):
            known = _eliminate(H, used, known, count, L)
            if known < count:
                _exchange(used, known, count, a, L, y)
                count, first = _advance(used, count, a, y, np.inf)
                known = min(known, first)
                continue
            _direction(H, c, used, count, a, L, y)
            before = count
            count, known = _advance(used, count, a, y, 1.0)
            if known < before:
                continue
            worst = _worst(H, c, used, count, a, slope, tol)
            if worst < 0:
                break
            used[count] = worst
            count += 1
