"""The choice among bank members for many kernels at once, compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

_DOUBT = 1e-6  # float32 products of m terms err by less than this times sqrt(m) of the norm


@njit(cache=True, nogil=True)
def _transform(member: float, scale: float, offset: float) -> float:
    # Apart, and rounded twice as NumPy does it: a file of coefficients must give the same bits.
    return member * scale + offset


# One thread: a second pool of threads beside that of the matrix product costs more than it gives.
@njit(cache=True, nogil=True, fastmath={"nnan", "nsz", "reassoc", "contract"})
def choose(
    products: np.ndarray,
    kernels: np.ndarray,
    unit: np.ndarray,
    fitted: np.ndarray,
    choice: np.ndarray,
    scale: np.ndarray,
    offset: np.ndarray,
) -> None:
    """Pick the best member for each kernel and fit it, in float64.

    Args:
        products: ``(K, N)`` approximate products of members and kernels; where the best two come
            within rounding of each other, all are compared again exactly.
        kernels: ``(N, m)``.
        unit: ``(K, m)`` mean-free members of unit norm.
        fitted: ``(N, m)``, filled with ``a * g + b``.
        choice: ``(N,)``, filled with the indices of the members.
        scale: ``(N,)``, filled with a, rounded to its type.
        offset: ``(N,)``, filled with b, likewise.
    """
    members, n = products.shape
    m = kernels.shape[1]
    best, second = np.zeros(n, products.dtype), np.zeros(n, products.dtype)
    winner = np.zeros(n, np.int32)
    for k in range(members):
        for i in range(n):
            strength = abs(products[k, i])
            second[i] = max(second[i], min(strength, best[i]))
            winner[i] = np.int32(k) if strength > best[i] else winner[i]
            best[i] = max(best[i], strength)
    for i in range(n):
        total, energy = 0.0, 0.0
        for j in range(m):
            total += kernels[i, j]
            energy += np.float64(kernels[i, j]) ** 2
        doubt = _DOUBT * np.sqrt(m * energy)
        first, last = winner[i], winner[i]
        if best[i] - second[i] <= doubt:
            first, last = 0, members - 1
        chosen, a = first, 0.0
        for k in range(first, last + 1):
            exact = 0.0
            for j in range(m):
                exact += unit[k, j] * kernels[i, j]
            if abs(exact) > abs(a):
                chosen, a = k, exact
        choice[i], scale[i], offset[i] = chosen, a, total / m
        for j in range(m):
            fitted[i, j] = _transform(unit[chosen, j], scale[i], offset[i])
