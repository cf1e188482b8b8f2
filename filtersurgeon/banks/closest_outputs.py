"""The linear transform of a bank member whose outputs are closest to those of each kernel."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.closest import ClosestFit, transform_members

_RIDGE = 1e-4
_NOTHING = 1e-9


def closest_outputs(
    kernels: np.ndarray,
    unit: np.ndarray,
    moments: np.ndarray,
    owner: np.ndarray,
    bias: bool = True,
) -> ClosestFit:
    """Fit each kernel by ``a * g + b`` so that what it makes of given inputs changes least.

    With M the second moments of the inputs that a kernel f sees, the error of its outputs is
    ``(f - a g - b)^T M (f - a g - b)``, which is the squared distance of ``L^T f`` to the plane of
    ``L^T g`` and ``L^T 1`` where ``M = L L^T``: least squares as for the weights, in other
    coordinates. Babaiee et al., 2024, App. A.1, fit the weights; that is ``M = 1``.

    Args:
        kernels: ``(N, m)`` flattened kernels of any float type.
        unit: ``(K, m)`` float64, from :func:`unit_bank` with the same ``bias``.
        moments: ``(C, m, m)`` second moments of the inputs of each channel.
        owner: ``(N,)`` the channel that each kernel reads.
        bias: fit ``a g + b``; else ``a g``.
    """
    n, m = kernels.shape
    choice = np.zeros(n, np.intp)
    numbers = np.zeros((2, n), kernels.dtype)
    for channel in np.unique(owner):
        rows = np.flatnonzero(owner == channel)
        M = moments[channel]
        scale = max(np.trace(M) / m, np.finfo(float).tiny)
        root = np.linalg.cholesky(M / scale + _RIDGE * np.eye(m))
        f, g = kernels[rows].astype(np.float64) @ root, unit @ root
        constant = root.sum(axis=0)
        constant = constant / np.linalg.norm(constant)
        free = g - np.outer(g @ constant, constant) if bias else g
        f_free = f - np.outer(f @ constant, constant) if bias else f
        norms = np.linalg.norm(free, axis=1)
        usable = norms > _NOTHING * max(np.linalg.norm(g, axis=1).max(), _NOTHING)
        along = f_free @ np.where(usable[:, None], free / np.where(usable, norms, 1)[:, None], 0).T
        best = np.abs(along).argmax(axis=1)
        a = along[np.arange(len(rows)), best] / np.where(usable, norms, 1)[best]
        choice[rows], numbers[0, rows] = best, a
        if bias:
            numbers[1, rows] = ((f - a[:, None] * g[best]) @ constant) / np.linalg.norm(
                root.sum(axis=0)
            )
    made = transform_members(unit[choice], numbers[0], numbers[1]).astype(kernels.dtype)
    return ClosestFit(made, choice, numbers[0], numbers[1])
