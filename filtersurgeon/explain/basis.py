"""Orthonormal bases of kernels, ordered from low to high frequency."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import OptionError, near_misses

Size = tuple[int, int]


@dataclass(frozen=True)
class Basis:
    """An orthonormal basis of the kernels of one size, ``m = height * width`` vectors.

    Attributes:
        name: ``dct``, ``haar`` or ``pca``.
        size: height and width of a kernel.
        vectors: ``(m, m)`` float64, a flattened basis filter per row, low frequencies first.
        frequencies: ``(m,)`` in ascending order, from 0 (constant) to 1 (fastest in both axes).
        parts: ``(m, 2)``: which vertical and which horizontal 1-D vector each filter is the outer
            product of; None for a basis that is not separable.
    """

    name: str
    size: Size
    vectors: np.ndarray
    frequencies: np.ndarray
    parts: np.ndarray | None = None

    def __repr__(self) -> str:
        size = "x".join(map(str, self.size))
        return summarise(self, name=self.name, size=size, vectors=self.vectors.shape)


def dct_vectors(n: int) -> np.ndarray:
    """Give the orthonormal DCT-II of n points, a vector per row, ``(n, n)``.

    ``b_k(x) = s_k cos(pi / n * k * (x + 1/2))`` with ``s_0 = sqrt(1/n)``, ``s_k = sqrt(2/n)``.
    Source: Gaudio et al., *ExplainFix*, Eq. 2, with pi/N where it prints 2 pi/N, which is not
    orthogonal.
    """
    # Angles of whole turns are taken out first: cos is exact to the last bit near zero only.
    steps = np.outer(np.arange(n), 2 * np.arange(n) + 1) % (4 * n)
    vectors: np.ndarray = np.sqrt(2 / n) * np.cos(np.pi / (2 * n) * steps)
    vectors[0] = np.sqrt(1 / n)
    return vectors


def haar_vectors(n: int) -> np.ndarray:
    """Give the orthonormal Haar basis of n points, a vector per row, ``(n, n)``, coarse first.

    The constant, then a step inside every part that has more than one point: positive on its
    first half, negative on its second. Where n is no power of two, first halves are the longer.
    """
    rows, parts = [np.full(n, np.sqrt(1 / n))], [(0, n)]
    for begin, end in parts:  # grows while it is walked through, level by level
        middle = begin + (end - begin + 1) // 2
        first, second = middle - begin, end - middle
        if second == 0:
            continue
        row = np.zeros(n)
        row[begin:middle], row[middle:end] = 1 / first, -1 / second
        rows.append(row / np.linalg.norm(row))
        parts += [(begin, middle), (middle, end)]
    return np.stack(rows)


SEPARABLE: dict[str, Callable[[int], np.ndarray]] = {"dct": dct_vectors, "haar": haar_vectors}
NAMES = (*SEPARABLE, "pca")


def separable_basis(name: str, size: Size) -> Basis:
    """Make the basis of all outer products of two 1-D bases.

    The order is that of Appendix F of *ExplainFix*: by ``u + v``, within one such diagonal its
    ends first, else row by row; for 3x3 kernels 0 1 3 2 6 4 5 7 8.

    Args:
        name: ``dct`` or ``haar``.
        size: height and width.

    Raises:
        OptionError: no such basis.
    """
    if name not in SEPARABLE:
        raise OptionError(f"no separable basis called {name!r}{near_misses(name, SEPARABLE)}")
    height, width = size
    vertical, horizontal = SEPARABLE[name](height), SEPARABLE[name](width)
    parts = np.array(sorted(product(range(height), range(width)), key=_frequency_order))
    vectors = np.einsum("ih,iw->ihw", vertical[parts[:, 0]], horizontal[parts[:, 1]])
    # An axis of one point has no frequency, and does not slow the other down.
    highest = [max(1, n - 1) for n in size]
    frequencies = (parts / highest).sum(axis=1) / max(1, sum(n > 1 for n in size))
    return Basis(name, size, vectors.reshape(len(parts), -1), frequencies, parts)


def _frequency_order(part: tuple[int, int]) -> tuple[int, int]:
    u, v = part
    return u + v, -abs(u - v)
