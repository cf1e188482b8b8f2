"""Generalised Haar filters, steered at random from three sinusoids."""

from __future__ import annotations

import numpy as np

from filtersurgeon.filters import FilterLayer


def ghaar(layer: FilterLayer, generator: np.random.Generator) -> np.ndarray:
    """Draw kernels ``h * 1 b^T + v * b 1^T + d * b b^T`` of sinusoids b.

    ``b = cos(f x)`` with ``x = linspace(0, pi, k)`` along an axis of k points. Each of the three
    terms has its own f from U[0, 2 (k - 1)], and h, v, d come from U[-1, 1].
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.1
    and Fig. 3.

    Args:
        layer: whose kernels to make.
        generator: draws the frequencies and the steering weights.

    Returns:
        ``(n_kernels, height, width)``.
    """
    n = layer.n_kernels
    # Frequencies as parts of the whole range, which depends on the length of the axis.
    f = generator.uniform(0, 1, (3, n, 1))
    h, v, d = generator.uniform(-1, 1, (3, n, 1, 1))
    vertical, horizontal = (
        np.cos(2 * (k - 1) * f * np.linspace(0, np.pi, k)) for k in layer.kernel_size
    )
    kernels: np.ndarray = h * horizontal[0][:, None, :] + v * vertical[1][:, :, None]
    kernels += d * vertical[2][:, :, None] * horizontal[2][:, None, :]
    return kernels
