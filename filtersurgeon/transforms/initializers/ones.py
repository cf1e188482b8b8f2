"""Every weight is one: a box filter, not steered."""

from __future__ import annotations

import numpy as np

from filtersurgeon.filters import FilterLayer


def ones(layer: FilterLayer, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Give kernels of ones.

    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.1.

    Args:
        layer: whose kernels to make.
        generator: draws nothing here.

    Returns:
        ``(n_kernels, height, width)``.
    """
    return np.ones((layer.n_kernels, *layer.kernel_size))
