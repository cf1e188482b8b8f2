"""Every kernel is a random filter of the orthonormal DCT-II basis, not steered."""

from __future__ import annotations

import numpy as np

from filtersurgeon.explain.basis import separable_basis
from filtersurgeon.filters import FilterLayer


def dct2(layer: FilterLayer, generator: np.random.Generator) -> np.ndarray:
    """Draw every kernel from the DCT-II basis of its size, all filters alike.

    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.1.

    Args:
        layer: whose kernels to make.
        generator: draws the filters.

    Returns:
        ``(n_kernels, height, width)``, each of norm one.
    """
    vectors = separable_basis("dct", layer.kernel_size).vectors
    drawn = vectors[generator.integers(len(vectors), size=layer.n_kernels)]
    return drawn.reshape(-1, *layer.kernel_size)
