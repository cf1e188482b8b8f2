"""The basis that a network's own kernels span best: their principal components."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from filtersurgeon.checkpoint.dtypes import BITS, decode
from filtersurgeon.explain.basis import Basis, Size, separable_basis
from filtersurgeon.filters import CombiningLayer, FilterLayer, check_finite


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
