"""Compiled loops over the columns of A and B; imported late, because numba is slow to import.

All kernels work on rows of C-ordered float64 arrays and release the GIL, so that threads may
give them disjoint rows; no result depends on how the rows are shared out.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from filtersurgeon.archetypes.problem import Floats, Integers

# Everything but `ninf`: reassociation lets the reductions use vector registers.
FAST = {"nnan", "nsz", "arcp", "contract", "reassoc"}
_LARGEST = (1 << 63) - 1


@njit(cache=True, nogil=True)
def _rank(bits: int) -> int:
    """Give an integer in the order of the float of these bits."""
    return bits ^ ((bits >> 63) & _LARGEST)


@njit(cache=True, nogil=True)
def _mask(size: int) -> int:
    """Give ones in all bits that positions below `size` may take."""
    mask = 0
    while mask < size - 1:
        mask = 2 * mask + 1
    return mask


@njit(cache=True, nogil=True)
def _extremes(used: Integers, bits: Integers, mask: int) -> tuple[int, int]:
    """Find the smallest gradient, and the largest one of the used coordinates.

    Floats are compared as integers: those loops become vector instructions, which are eight times
    as fast, and those over floats do not. The same loops find places: they stand in the low bits,
    where they replace what hardly ever decides. Where it does decide, the place is looked for.

    Args:
        used: bits of the coordinates (d,), of which none is negative.
        bits: bits of their gradients (d,).
        mask: `_mask(d)`.
    """
    low, high = _LARGEST, ~_LARGEST
    first, last = _LARGEST, ~_LARGEST
    for k in range(bits.size):
        value = _rank(bits[k])
        low = min(low, value)
        first = min(first, value & ~mask | k)
        value = value if used[k] > 0 else ~_LARGEST
        high = max(high, value)
        last = max(last, value & ~mask | (mask - k))
    taker, giver = first & mask, mask - (last & mask)
    if _rank(bits[taker]) != low:
        taker = 0
        while _rank(bits[taker]) != low:
            taker += 1
    if _rank(bits[giver]) != high or used[giver] == 0:
        giver = 0
        while _rank(bits[giver]) != high or used[giver] == 0:
            giver += 1
    return taker, giver


@njit(cache=True, nogil=True)
def _least(bits: Integers) -> int:
    """Give the smallest of some floats, which come as bits (d,), in their order as integers."""
    low = _LARGEST
    for k in range(bits.size):
        low = min(low, _rank(bits[k]))
    return low


@njit(cache=True, nogil=True)
def _place_of_least(bits: Integers, mask: int) -> int:
    """Find the smallest of some floats, which come as bits (d,); of equal ones the first.

    It works as `_extremes` does.
    """
    low, first = _LARGEST, _LARGEST
    for k in range(bits.size):
        value = _rank(bits[k])
        low = min(low, value)
        first = min(first, value & ~mask | k)
    place = first & mask
    if _rank(bits[place]) != low:
        place = 0
        while _rank(bits[place]) != low:
            place += 1
    return place


@njit(cache=True, nogil=True, fastmath=FAST)
def add_multiple(to: Floats, factor: float, row: Floats) -> None:
    """Add a multiple of one row to another, in place."""
    for k in range(to.size):
        to[k] += factor * row[k]


@njit(cache=True, nogil=True, fastmath=FAST)
def _inner_product(a: Floats, b: Floats) -> float:
    """Sum up products; a call of BLAS takes longer for a few dozen numbers."""
    total = 0.0
    for k in range(a.size):
        total += a[k] * b[k]
    return total


@njit(cache=True, nogil=True, fastmath=FAST)
def _move_mass(gradient: Floats, mass: float, hessian: Floats, to: int, away: int) -> None:
    for k in range(gradient.size):
        gradient[k] += mass * (hessian[to, k] - hessian[away, k])


@njit(cache=True, nogil=True)
def _pair_steps(
    point: Floats, gradient: Floats, hessian: Floats, max_steps: int, tol: float
) -> int:
    """Minimise a quadratic over the simplex by moving mass between pairs of coordinates.

    Each step takes mass from the used coordinate with the largest gradient to the coordinate
    with the smallest, exactly to the minimum or until nothing is left, which leaves a true zero
    (the maximal violating pair of sequential minimal optimisation, Keerthi et al. 2001). Among
    equal gradients the coordinate that comes first is meant. It ends where these two gradients
    differ by no more than `tol`.

    Returns:
        The number of steps; `point` and `gradient` are updated in place.
    """
    # Views are made once: with few coordinates they would cost as much as the rest of a step.
    used, bits = point.view(np.int64), gradient.view(np.int64)
    mask = _mask(bits.size)
    for step in range(max_steps):
        taker, giver = _extremes(used, bits, mask)
        low, high = gradient[taker], gradient[giver]
        if not high - low > tol:
            return step
        curvature = hessian[taker, taker] + hessian[giver, giver] - 2.0 * hessian[taker, giver]
        mass = point[giver]
        if high - low < curvature * mass:
            mass = (high - low) / curvature
            point[giver] -= mass
        else:
            point[giver] = 0.0
        point[taker] += mass
        _move_mass(gradient, mass, hessian, taker, giver)
    return max_steps


@njit(cache=True, nogil=True)
def update_coefficients(
    A: Floats, C: Floats, H: Floats, norms: Floats, max_steps: int, tol: float
) -> tuple[Floats, Floats]:
    """Improve every row of A in place.

    Args:
        A: coefficients (N, d).
        C: inner products of filters and archetypes (N, d).
        H: Gram matrix of the archetypes (d, d).
        norms: squared norms of the filters (N,).
        max_steps: pair steps per row.
        tol: spread of the gradient over a row's non-zeros and its smallest entry at which the
            row is left alone.

    Returns:
        The squared errors after the update (N,), and how far half of each may at most have been
        from its optimum before it (N,), which is the Frank-Wolfe duality gap.
    """
    errors = np.empty(len(A))
    gaps = np.empty(len(A))
    gradient, lowest = np.empty(A.shape[1]), np.empty(1)
    bits, found = gradient.view(np.int64), lowest.view(np.int64)
    for n in range(len(A)):
        a, c = A[n], C[n]
        gradient[:] = 0.0
        for k in range(a.size):
            if a[k] > 0.0:
                add_multiple(gradient, a[k], H[k])
        add_multiple(gradient, -1.0, c)
        # The integers' order is undone by the same step.
        found[0] = _rank(_least(bits))
        gaps[n] = _inner_product(a, gradient) - lowest[0]
        _pair_steps(a, gradient, H, max_steps, tol)
        errors[n] = norms[n] + _inner_product(a, gradient) - _inner_product(a, c)
    return errors, gaps


@njit(cache=True, nogil=True)
def removal_costs(A: Floats, C: Floats, H: Floats, mass: Floats, max_steps: int) -> Floats:
    """Estimate how much the error of all rows rises if one archetype must not be used.

    Args:
        A: coefficients (N, d), nearly optimal.
        C: inner products of filters and archetypes (N, d).
        H: Gram matrix of the archetypes (d, d).
        mass: weights of the filters (N,).
        max_steps: pair steps by which a row is modelled by the others.

    Returns:
        The rise for each archetype (d,).
    """
    d = A.shape[1]
    costs = np.zeros(d)
    trial, gradient, slope = np.empty(d), np.empty(d), np.empty(d)
    bits = slope.view(np.int64)
    mask = _mask(d)
    halves = np.empty(d)
    for k in range(d):
        halves[k] = 0.5 * H[k, k]
    for n in range(len(A)):
        a, c = A[n], C[n]
        gradient[:] = 0.0
        for k in range(d):
            if a[k] > 0.0:
                add_multiple(gradient, a[k], H[k])
        add_multiple(gradient, -1.0, c)
        error = _inner_product(a, gradient) - _inner_product(a, c)
        for j in range(d):
            mass_of = a[j]
            if mass_of <= 0.0:
                continue
            # The weight goes to the archetype by which the error rises least to first order. Up to
            # a constant and the weight, which are the same for all, the rise is:
            for k in range(d):
                slope[k] = gradient[k] + mass_of * (halves[k] - H[j, k])
            slope[j] = np.inf
            best = _place_of_least(bits, mask)
            for k in range(d):
                slope[k] = gradient[k]
                trial[k] = a[k]
            trial[j] = 0.0
            trial[best] += mass_of
            _move_mass(slope, mass_of, H, best, j)
            slope[j] = np.inf
            _pair_steps(trial, slope, H, max_steps, 0.0)
            slope[j] = 0.0
            after = 0.0
            for k in range(d):
                if trial[k] > 0.0:
                    after += trial[k] * (slope[k] - C[n, k])
            costs[j] += mass[n] * max(0.0, after - error)
    return costs


@njit(cache=True, nogil=True)
def add_sparse_product(sparse: Floats, dense: Floats, to: Floats) -> None:
    """Add `sparse` (m, n) times `dense` (n, k) to `to` (m, k), by way of positive entries alone."""
    for j in range(sparse.shape[0]):
        for n in range(sparse.shape[1]):
            if sparse[j, n] > 0.0:
                add_multiple(to[j], sparse[j, n], dense[n])


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
            add_multiple(Q[used[r]], weight, G[n])


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
        if _pair_steps(B[j], slope, G, max_steps, 0.0) == 0:
            continue
        slope -= before
        GB[j] += slope
        for i in range(j + 1, B.shape[0]):
            if M[i, j] > 0.0:
                add_multiple(gradient[i], M[i, j], slope)


@njit(cache=True, nogil=True)
def extrapolate_coefficients(A: Floats, old: Floats, momentum: float) -> Floats:
    """Give A (N, d) moved on from its old values; rows stay on the simplex.

    What would fall below zero becomes zero, and every row is scaled back to sum 1.
    """
    ahead = np.empty_like(A)
    for n in range(A.shape[0]):
        row = ahead[n]
        for k in range(A.shape[1]):
            row[k] = max(A[n, k] + momentum * (A[n, k] - old[n, k]), 0.0)
        row /= row.sum()
    return ahead


@njit(cache=True, nogil=True)
def extrapolate_weights(
    B: Floats, GB: Floats, old_B: Floats, old_GB: Floats, G: Floats, momentum: float
) -> tuple[Floats, Floats]:
    """Give B and its product with G (both (d, N)) moved on as `extrapolate_coefficients` does."""
    ahead, product = np.empty_like(B), np.empty_like(GB)
    for j in range(B.shape[0]):
        to = product[j]
        for n in range(B.shape[1]):
            to[n] = GB[j, n] + momentum * (GB[j, n] - old_GB[j, n])
        total = 0.0
        for n in range(B.shape[1]):
            weight = B[j, n]
            if weight != old_B[j, n]:
                weight += momentum * (weight - old_B[j, n])
                if weight < 0.0:
                    add_multiple(to, -weight, G[n])
                    weight = 0.0
            ahead[j, n] = weight
            total += weight
        to /= total
        ahead[j] /= total
    return ahead, product
