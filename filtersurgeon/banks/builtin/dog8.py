"""Eight derivatives of Gaussians that suffice for the depthwise kernels of ConvNeXt V2."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank
from filtersurgeon.banks.scale_space import derivative

# Scales (sigma_x, sigma_y) that Lindeberg et al. fitted to the eight filters which the greedy
# search of Babaiee et al. (2024) found in ConvNeXt V2 Tiny, in that paper's order.
SCALES = (
    (0.644, 0.583), (0.586, 0.644), (0.690, 0.674), (0.756, 0.460),
    (1.107, 0.945), (0.900, 0.889), (0.675, 0.675), (0.609, 0.601),
)  # fmt: skip
LABELS = ("dy-", "dx-", "dy+", "dx+", "dx", "dy", "T-lap", "T")


def dog8(size: tuple[int, int]) -> FilterBank | None:
    """Make the bank at a kernel size.

    Every kernel is made from the separable discrete Gaussian ``T(x, y) = g(x; sx^2) g(y; sy^2)``
    with ``g(n; s) = exp(-s) I_n(s)``, ``I_n`` the modified Bessel function (Lindeberg, *Scale-Space
    for Discrete Signals*, 1990): four half-pixel first differences (``T(y) - T(y - 1)`` and so
    on), two centred first derivatives, ``T`` less half its five-point Laplacian, and ``T``.
    Source of the choice: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*,
    2024, section 3.2.

    Args:
        size: height and width.

    Returns:
        The bank, or None unless the size is square, odd and at least 3.
    """
    height, width = size
    if height != width or height < 3 or height % 2 == 0:
        return None
    kernels = np.stack(
        [derivative(order, *scales, size) for order, scales in zip(LABELS, SCALES, strict=True)]
    )
    return FilterBank("dog8", kernels, LABELS, __doc__ or "")
