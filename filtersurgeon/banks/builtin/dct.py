"""Cosines of the discrete cosine transform, lowest frequencies first: dct-K takes K of them."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank
from filtersurgeon.errors import OptionError


def dct(size: tuple[int, int], *, count: int = 0) -> FilterBank:
    """Make the orthonormal basis of the two-dimensional DCT-II, or the beginning of it.

    In order of the frequencies' sum u + v; within one sum those that vary along one axis most come
    first, horizontal before vertical. The first is the constant.
    Source of the order: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*,
    2022, section 3.2.

    Args:
        size: height and width, any.
        count: K; 0 takes all.

    Returns:
        The bank, members called by their frequencies ``v,u`` (down, across).

    Raises:
        OptionError: a kernel of that size has fewer cosines.
    """
    height, width = size
    total = height * width
    if count > total:
        raise OptionError(f"bank dct-{count}: kernels of {height}x{width} have {total} cosines")
    order = frequency_order(height, width)[: count or total]
    down, across = _cosines(height), _cosines(width)
    kernels = np.stack([np.outer(down[v], across[u]) for v, u in order])
    labels = tuple(f"{v},{u}" for v, u in order)
    return FilterBank(f"dct-{count}" if count else "dct", kernels, labels, __doc__ or "")


def frequency_order(height: int, width: int) -> list[tuple[int, int]]:
    """Sort the frequencies (down, across) of a kernel as the bank has them."""
    every = [(v, u) for v in range(height) for u in range(width)]
    return sorted(every, key=lambda f: (f[0] + f[1], -abs(f[0] - f[1]), f))


def _cosines(n: int) -> np.ndarray:
    """Give the orthonormal DCT-II of length n, ``(frequency, place)``."""
    places, frequencies = np.arange(n), np.arange(n)[:, None]
    rows = np.cos(np.pi / n * (places + 0.5) * frequencies) * np.sqrt(2 / n)
    rows[0] = 1 / np.sqrt(n)
    return rows
