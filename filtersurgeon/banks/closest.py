"""The closest linear transform of a bank member to each of many kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

COMPILED_FROM = 4_000_000
"""Products of kernels and members from which the compiled path repays the import of numba."""

_BLOCK = 512  # kernels at a time, so that their products stay in the processor's cache
_COMPILED_PRODUCTS = 4_000_000  # at a time: few large matrix products, in bounded memory
_ROUNDING = 1e-12  # a scale below this share of the kernel is what rounding leaves of a constant


class ClosestFit(NamedTuple):
    """The best ``a * g + b`` for each of N kernels.

    Attributes:
        kernels: ``(N, m)``, the fitted kernels, in the float type of the given ones.
        choice: ``(N,)`` indices into the bank.
        scale: ``(N,)``, a, for ``g`` mean-free and of unit norm.
        offset: ``(N,)``, b, the mean of the kernel.
    """

    kernels: np.ndarray
    choice: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


def unit_bank(bank: np.ndarray) -> np.ndarray:
    """Make each row of ``(K, m)`` mean-free and of unit norm; a constant row becomes zero.

    Neither step changes the linear transforms that a row can give. A constant row gives constants
    only, and so does zero.
    """
    centred = bank - bank.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    constant = norms <= 1e-12 * np.abs(bank).max(axis=1, keepdims=True)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, norms))


def closest_linear(kernels: np.ndarray, unit: np.ndarray) -> ClosestFit:
    """Fit each kernel by its closest linear transform of one bank member.

    With ``g`` mean-free and of unit norm the least-squares coefficients are ``a = <g, f>`` and
    ``b = mean(f)``, and the error falls with ``a^2``, so that the best member is that of the
    largest ``|a|`` (Babaiee et al., 2024, App. A.1, Eq. 1-3). Equally good members: the first.

    Args:
        kernels: ``(N, m)`` flattened kernels of any float type.
        unit: ``(K, m)`` float64, from :func:`unit_bank`.
    """
    n, m = kernels.shape
    fit = ClosestFit(np.empty((n, m), kernels.dtype), np.empty(n, np.intp), *np.empty((2, n)))
    compiled = n * len(unit) >= COMPILED_FROM
    block = max(_BLOCK, _COMPILED_PRODUCTS // len(unit)) if compiled else _BLOCK
    choose = _compiled_choice(unit, kernels.dtype, block) if compiled else _choose
    for begin in range(0, n, block):
        part = slice(begin, begin + block)
        choose(kernels[part], unit, ClosestFit(*(array[part] for array in fit)))
    constant = np.abs(fit.scale) <= _ROUNDING * np.sqrt(m) * np.abs(fit.offset)
    fit.choice[constant], fit.scale[constant] = 0, 0.0
    return fit


def _compiled_choice(unit: np.ndarray, dtype: np.dtype, block: int) -> Callable[..., None]:
    from filtersurgeon.banks.closest_compiled import choose

    # These products only narrow the choice, so the kernels' own precision is enough for them.
    rows = unit.astype(dtype)
    scratch = np.empty(block * len(unit), dtype)

    def fit_block(kernels: np.ndarray, unit: np.ndarray, fit: ClosestFit) -> None:
        products = scratch[: len(unit) * len(kernels)].reshape(len(unit), len(kernels))
        choose(np.matmul(rows, kernels.T, out=products), kernels, unit, *fit)

    return fit_block


def _choose(kernels: np.ndarray, unit: np.ndarray, fit: ClosestFit) -> None:
    members, m = unit.shape
    # The last column takes the mean. There is no need to centre the kernels first: the members
    # are mean-free, and float64 has digits to spare.
    products = kernels.astype(np.float64) @ np.vstack([unit, np.full(m, 1 / m)]).T
    choice = np.abs(products[:, :members]).argmax(axis=1)
    fit.choice[:], fit.offset[:] = choice, products[:, members]
    fit.scale[:] = products[np.arange(len(choice)), choice]
    fit.kernels[:] = unit[choice] * fit.scale[:, None] + fit.offset[:, None]
