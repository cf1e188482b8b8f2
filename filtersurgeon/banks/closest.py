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
        scale: ``(N,)``, a, for the unit member ``g``, in that type too.
        offset: ``(N,)``, b, likewise.
    """

    kernels: np.ndarray
    choice: np.ndarray
    scale: np.ndarray
    offset: np.ndarray


def unit_bank(bank: np.ndarray, bias: bool = True) -> np.ndarray:
    """Make each row of ``(K, m)`` mean-free and of unit norm; a constant row becomes zero.

    Neither step changes the linear transforms that a row can give. A constant row gives constants
    only, and so does zero.

    Args:
        bank: flattened members.
        bias: transforms have an offset; without it, the mean stays in the rows.
    """
    centred = bank - bank.mean(axis=1, keepdims=True) if bias else bank
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    constant = norms <= 1e-12 * np.abs(bank).max(axis=1, keepdims=True)
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, norms))


def closest_linear(kernels: np.ndarray, unit: np.ndarray, bias: bool = True) -> ClosestFit:
    """Fit each kernel by its closest linear transform of one bank member.

    With ``g`` mean-free and of unit norm the least-squares coefficients are ``a = <g, f>`` and
    ``b = mean(f)``, and the error falls with ``a^2``, so that the best member is that of the
    largest ``|a|`` (Babaiee et al., 2024, App. A.1, Eq. 1-3). Equally good members: the first.
    Without an offset the same holds of ``a g`` with ``g`` of unit norm.

    The coefficients are rounded to the type of the kernels before the kernels are made from them,
    so that a file which holds coefficients in place of kernels gives the same kernels.

    Args:
        kernels: ``(N, m)`` flattened kernels of any float type.
        unit: ``(K, m)`` float64, from :func:`unit_bank` with the same ``bias``.
        bias: fit ``a g + b``; else ``a g``.
    """
    n, m = kernels.shape
    numbers = np.empty((2, n), kernels.dtype)
    fit = ClosestFit(np.empty((n, m), kernels.dtype), np.empty(n, np.intp), *numbers)
    compiled = bias and n * len(unit) >= COMPILED_FROM
    block = max(_BLOCK, _COMPILED_PRODUCTS // len(unit)) if compiled else _BLOCK
    choose = _compile_choice(unit, kernels.dtype, block) if compiled else _chooser(bias)
    for begin in range(0, n, block):
        part = slice(begin, begin + block)
        choose(kernels[part], unit, ClosestFit(*(array[part] for array in fit)))
    constant = np.abs(fit.scale) <= _ROUNDING * np.sqrt(m) * np.abs(fit.offset)
    fit.choice[constant], fit.scale[constant] = 0, 0.0
    return fit


def transform_members(members: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Give ``a g + b`` in float64 for each of N members ``(N, m)``."""
    made: np.ndarray = members * scale.astype(np.float64)[:, None]
    made += offset.astype(np.float64)[:, None]
    return made


def _compile_choice(unit: np.ndarray, dtype: np.dtype, block: int) -> Callable[..., None]:
    from filtersurgeon.archetypes.problem import check_room

    check_room()
    from filtersurgeon.banks.closest_compiled import choose

    # These products only narrow the choice, so the kernels' own precision is enough for them.
    rows = unit.astype(dtype)
    scratch = np.empty(block * len(unit), dtype)

    def fit_block(kernels: np.ndarray, unit: np.ndarray, fit: ClosestFit) -> None:
        products = scratch[: len(unit) * len(kernels)].reshape(len(unit), len(kernels))
        choose(np.matmul(rows, kernels.T, out=products), kernels, unit, *fit)

    return fit_block


def _chooser(bias: bool) -> Callable[..., None]:
    def choose(kernels: np.ndarray, unit: np.ndarray, fit: ClosestFit) -> None:
        exact = kernels.astype(np.float64)
        # There is no need to centre the kernels first: the members are mean-free, and float64 has
        # digits to spare.
        products = exact @ unit.T
        fit.choice[:] = choice = np.abs(products).argmax(axis=1)
        fit.scale[:] = products[np.arange(len(choice)), choice]
        # Not by a matrix product: means of float32 numbers often lie halfway between two of
        # them, where the order of summation would tell.
        fit.offset[:] = exact.mean(axis=1) if bias else 0.0
        fit.kernels[:] = transform_members(unit[choice], fit.scale, fit.offset)

    return choose
