"""Keep every kernel."""

from __future__ import annotations

import numpy as np

from filtersurgeon.filters import FilterLayer


def unchanged(layer: FilterLayer, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Give the layer's own kernels: pretrained, or as the architecture initialises them.

    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.1,
    ImageNet Unchanged and Random Unchanged.

    Args:
        layer: whose kernels to give.
        generator: draws nothing here.

    Returns:
        ``(n_kernels, height, width)``.
    """
    return layer.matrix().reshape(-1, *layer.kernel_size)
