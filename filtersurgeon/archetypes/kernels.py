"""Compiled loops over the columns of A and B; imported late, because numba is slow to import.

All kernels work on rows of C-ordered float64 arrays and release the GIL, so that threads may
give them disjoint rows; no result depends on how the rows are shared out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from filtersurgeon.archetypes.result import Floats, Integers

# Everything but `ninf`: reassociation lets the reductions use vector registers.
_FAST = {"nnan", "nsz", "arcp", "contract", "reassoc"}
# A pivot below this share of the largest diagonal entry counts as affinely dependent.
_DEPENDENT = 1e-11


@njit(cache=True, nogil=True, fastmath=_FAST)
def _extremes(point: Floats, gradient: Floats) -> tuple[float, float]:
    """Give the smallest gradient, and the largest one of the used coordinates."""
    low = gradient[0]
    high = -np.inf
    for k in range(point.size):
        value = gradient[k]
        low = min(low, value)
        high = max(high, value if point[k] > 0.0 else -np.inf)
    return low, high


@njit(cache=True, nogil=True, fastmath=_FAST)
def _add_multiple(to: Floats, factor: float, row: Floats) -> None:
    for k in range(to.size):
        to[k] += factor * row[k]


@njit(cache=True, nogil=True, fastmath=_FAST)
def _move_mass(gradient: Floats, mass: float, to: Floats, away: Floats) -> None:
    for k in range(gradient.size):
        gradient[k] += mass * (to[k] - away[k])


@njit(cache=True, nogil=True)
def _pair_steps(point: Floats, gradient: Floats, hessian: Floats, max_steps: int) -> int:
    """Minimise a quadratic over the simplex by moving mass between pairs of coordinates.

    Each step takes mass from the used coordinate with the largest gradient to the coordinate
    with the smallest, exactly to the minimum or until nothing is left, which leaves a true zero
    (the maximal violating pair of sequential minimal optimisation, Keerthi et al. 2001). Among
    equal gradients the coordinate that comes first is meant.

    Returns:
        The number of steps; `point` and `gradient` are updated in place.
    """
    for step in range(max_steps):
        low, high = _extremes(point, gradient)
        if not high > low:
            return step
        taker = 0
        while gradient[taker] != low:
            taker += 1
        giver = 0
        while gradient[giver] != high or point[giver] == 0.0:
            giver += 1
        curvature = hessian[taker, taker] + hessian[giver, giver] - 2.0 * hessian[taker, giver]
        mass = point[giver]
        if high - low < curvature * mass:
            mass = (high - low) / curvature
            point[giver] -= mass
        else:
            point[giver] = 0.0
        point[taker] += mass
        _move_mass(gradient, mass, hessian[taker], hessian[giver])
    return max_steps


@njit(cache=True, nogil=True)
def update_coefficients(
    A: Floats, C: Floats, H: Floats, norms: Floats, max_steps: int
) -> tuple[Floats, Floats]:
    """Improve every row of A in place.

    Args:
        A: coefficients (N, d).
        C: inner products of filters and archetypes (N, d).
        H: Gram matrix of the archetypes (d, d).
        norms: squared norms of the filters (N,).
        max_steps: pair steps per row.

    Returns:
        The squared errors after the update (N,), and how far half of each may at most have been
        from its optimum before it (N,), which is the Frank-Wolfe duality gap.
    """
    errors = np.empty(len(A))
    gaps = np.empty(len(A))
    gradient = np.empty(A.shape[1])
    for n in range(len(A)):
        a = A[n]
        gradient[:] = 0.0
        for k in range(a.size):
            if a[k] > 0.0:
                _add_multiple(gradient, a[k], H[k])
        gradient -= C[n]
        gaps[n] = a @ gradient - gradient.min()
        _pair_steps(a, gradient, H, max_steps)
        errors[n] = norms[n] + a @ (gradient - C[n])
    return errors, gaps


@njit(cache=True, nogil=True)
def coefficient_products(A: Floats, mass: Floats, G: Floats, M: Floats, Q: Floats) -> None:
    """Add A^T W A (d, d) to M and A^T W G (d, N) to Q, by way of the non-zeros of A."""
    used = np.empty(A.shape[1], np.intp)
    for n in range(len(A)):
        count = 0
        for k in range(A.shape[1]):
            if A[n, k] > 0.0:
                used[count] = k
                count += 1
        for r in range(count):
            weight = mass[n] * A[n, used[r]]
            for c in range(count):
                M[used[r], used[c]] += weight * A[n, used[c]]
            _add_multiple(Q[used[r]], weight, G[n])


@njit(cache=True, nogil=True)
def update_weights(
    B: Floats, GB: Floats, gradient: Floats, G: Floats, M: Floats, max_steps: int
) -> None:
    """Improve a block of archetypes one after the other, in place.

    Args:
        B: rows of weights (k, N).
        GB: their products with the Gram matrix (k, N), kept up to date.
        gradient: gradient of half the objective with respect to B (k, N); used up.
        G: Gram matrix (N, N).
        M: the block's part of A W A^T (k, k).
        max_steps: pair steps per archetype.
    """
    before = np.empty(B.shape[1])
    for j in range(B.shape[0]):
        scale = M[j, j]
        if scale <= 0.0:
            continue
        # Divided by M_jj the Hessian is G itself, so the gradient moves as G b does.
        slope = gradient[j]
        slope /= scale
        before[:] = slope
        if _pair_steps(B[j], slope, G, max_steps) == 0:
            continue
        slope -= before
        GB[j] += slope
        for i in range(j + 1, B.shape[0]):
            if M[i, j] > 0.0:
                _add_multiple(gradient[i], M[i, j], slope)


@njit(cache=True, nogil=True)
def extrapolate_weights(
    B: Floats, GB: Floats, old_B: Floats, old_GB: Floats, G: Floats, momentum: float
) -> None:
    """Move B and its product with G (both (d, N)) on from their old values, in place.

    What would fall below zero becomes zero, and every row is scaled back to sum 1.
    """
    for j in range(B.shape[0]):
        total = 0.0
        for n in range(B.shape[1]):
            GB[j, n] += momentum * (GB[j, n] - old_GB[j, n])
        for n in range(B.shape[1]):
            weight = B[j, n]
            if weight != old_B[j, n]:
                weight += momentum * (weight - old_B[j, n])
                if weight < 0.0:
                    for m in range(B.shape[1]):
                        GB[j, m] -= weight * G[n, m]
                    weight = 0.0
                B[j, n] = weight
            total += weight
        for n in range(B.shape[1]):
            B[j, n] /= total
            GB[j, n] /= total


@njit(cache=True, nogil=True, fastmath=_FAST)
def _eliminate(H: Floats, used: Integers, count: int, L: Floats) -> int:
    """Cholesky factor of the used points' Gram matrix about the first of them.

    Returns:
        ``count`` when the points are affinely independent, else the position of the first one
        that depends on those before it; its row of L is then filled up to the diagonal.
    """
    origin = used[0]
    largest = 0.0
    for r in range(1, count):
        u = used[r]
        for c in range(1, r + 1):
            v = used[c]
            value = (H[u, v] - H[u, origin]) - (H[v, origin] - H[origin, origin])
            largest = max(largest, value) if r == c else largest
            for k in range(1, c):
                value -= L[r, k] * L[c, k]
            if c < r:
                L[r, c] = value / L[c, c]
            elif value <= _DEPENDENT * largest:
                return r
            else:
                L[r, r] = np.sqrt(value)
    return count


@njit(cache=True, nogil=True)
def _back_substitute(L: Floats, count: int, y: Floats) -> None:
    """Solve L^T x = y for positions 1 to count - 1, in place."""
    for r in range(count - 1, 0, -1):
        for k in range(r + 1, count):
            y[r] -= L[k, r] * y[k]
        y[r] /= L[r, r]


@njit(cache=True, nogil=True)
def _direction(
    H: Floats, c: Floats, used: Integers, count: int, a: Floats, L: Floats, y: Floats
) -> float:
    """Write into y the way from the used coefficients to their unconstrained optimum.

    Affinely dependent archetypes give a way along which the modelled filter stays where it is,
    until a coefficient vanishes, as in the proof of Caratheodory's theorem.

    Returns:
        How many times y may be gone at most: 1, or infinity for dependent archetypes.
    """
    independent = _eliminate(H, used, count, L)
    origin = used[0]
    total = 0.0
    if independent < count:
        for r in range(1, independent):
            y[r] = L[independent, r]
        _back_substitute(L, independent, y)
        for r in range(1, independent):
            total += y[r]
        y[0] = 1.0 - total
        y[independent:count] = 0.0
        y[independent] = -1.0
        if a[used[independent]] == 0.0:
            y[:count] *= -1.0
        return np.inf
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
    return 1.0


@njit(cache=True, nogil=True)
def _advance(used: Integers, count: int, a: Floats, y: Floats, length: float) -> tuple[int, bool]:
    """Go along y as far as the simplex allows; give the number still used and if all the way."""
    stop = -1
    for r in range(count):
        if y[r] < 0.0 and a[used[r]] < -length * y[r]:
            length = a[used[r]] / -y[r]
            stop = r
    for r in range(count):
        a[used[r]] = max(0.0, a[used[r]] + length * y[r])
    if stop < 0:
        return count, True
    a[used[stop]] = 0.0
    kept = 0
    for r in range(count):
        if a[used[r]] > 0.0:
            used[kept] = used[r]
            kept += 1
    return kept, False


@njit(cache=True, nogil=True)
def _worst(
    H: Floats, c: Floats, used: Integers, count: int, a: Floats, slope: Floats, tol: float
) -> int:
    """Find the unused coordinate that lowers the objective fastest, or -1 at an optimum."""
    slope[:] = 0.0
    for r in range(count):
        _add_multiple(slope, a[used[r]], H[used[r]])
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
        for _ in range(10 * size + 100):
            length = _direction(H, c, used, count, a, L, y)
            count, optimal = _advance(used, count, a, y, length)
            if not optimal:
                continue
            worst = _worst(H, c, used, count, a, slope, tol)
            if worst < 0:
                break
            used[count] = worst
            count += 1
