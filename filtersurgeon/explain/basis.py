"""Orthonormal bases of kernels: separable ones from low to high frequency, and learned ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tensor import BITS, decode
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import CombiningLayer, FilterLayer, check_finite, layers_to_analyse

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


def kernel_blocks(layer: FilterLayer) -> Iterator[np.ndarray]:
    """Read the kernels of a layer, flattened, in blocks ``(n, kh * kw)`` of float64.

    Raises:
        LayerError: a weight is not finite, or of a type that is not computed with.
    """
    layer.check_type()
    if isinstance(layer, CombiningLayer):
        yield from _combine(layer)
        return
    size, dtype = prod(layer.kernel_size), layer.stored.dtype
    for raw in layer.stored.blocks(size * BITS[dtype] // 8):
        kernels = decode(raw, dtype).reshape(-1, size)
        check_finite(kernels, layer.name)
        yield kernels.astype(np.float64)


def _combine(layer: CombiningLayer) -> Iterator[np.ndarray]:
    """Give the kernels of a pre-defined filter module, output by output."""
    chosen = layer.chosen_filters()
    for weights in layer.matrix():
        yield weights.astype(np.float64)[:, None] * chosen


def own_basis(layers: Sequence[FilterLayer], size: Size) -> Basis:
    """Find the principal components of all kernels of one size, not centred.

    Source: Gaudio et al., *ExplainFix*, section 3.1: the right singular vectors of all kernels,
    through the eigenvectors of their Gram matrix. They are ordered by their mean frequency: that
    of the DCT-II filters, weighted by the squares of the components' coefficients.

    Args:
        layers: layers of any kernel size; those of another are left out.
        size: height and width.

    Returns:
        The basis ``pca``, which is not separable. Signs are such that the sum of cubes of each
        vector is not negative.
    """
    m = prod(size)
    gram = np.zeros((m, m))
    for layer in layers:
        if layer.kernel_size == size:
            for kernels in kernel_blocks(layer):
                gram += kernels.T @ kernels
    # Largest first, so that components of equal frequency stay in the order of their weight.
    vectors = np.linalg.eigh(gram)[1].T[::-1]
    vectors = vectors * np.where((vectors**3).sum(axis=1, keepdims=True) < 0, -1.0, 1.0)
    dct = separable_basis("dct", size)
    frequencies = (vectors @ dct.vectors.T) ** 2 @ dct.frequencies
    order = np.argsort(frequencies, kind="stable")
    return Basis("pca", size, vectors[order], frequencies[order])


class Guide:
    """The spatial kernels of a network, in the basis of their principal components.

    Args:
        checkpoint: the network; its layers are read when they are needed, one at a time.

    Raises:
        LayerError: it has no spatial convolutions.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.name = checkpoint.name
        self.layers = [x for x in layers_to_analyse(checkpoint) if x.stores_kernels]
        self._bases: dict[Size, Basis] = {}

    @cached_property
    def _by_name(self) -> dict[str, FilterLayer]:
        return {layer.name: layer for layer in self.layers}

    def counterpart(self, layer: FilterLayer) -> FilterLayer:
        """Give the layer to be guided by: the one of the same name.

        Raises:
            LayerError: there is none, or its kernels are of another size.
        """
        size = layer.kernel_size
        found = self._by_name.get(layer.name)
        if found is None:
            raise LayerError(
                f"layer {layer.name} has no counterpart in the guide {self.name}; "
                f"leave it out with `layers` '!{layer.name}', or take another guide"
            )
        if found.kernel_size != size:
            raise LayerError(
                f"layer {layer.name} has {size[0]}x{size[1]} kernels, the guide {self.name} has "
                f"{found.kernel_size[0]}x{found.kernel_size[1]} there"
            )
        return found

    def basis(self, size: Size) -> Basis:
        """Give the principal components of all kernels of a size."""
        if size not in self._bases:
            self._bases[size] = own_basis(self.layers, size)
        return self._bases[size]

    def coefficients(self, layer: FilterLayer) -> np.ndarray:
        """Give the coefficients of a layer's counterpart, ``(n_kernels of the guide, m)``.

        Raises:
            LayerError: as :meth:`counterpart`.
        """
        found = self.counterpart(layer)
        vectors = self.basis(found.kernel_size).vectors
        return np.concatenate([kernels @ vectors.T for kernels in kernel_blocks(found)])
