"""Derivatives of discrete Gaussians, kernels of any odd size from one formula.

Source of the family: Lindeberg, *Scale-Space for Discrete Signals*, 1990.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

Size = tuple[int, int]

ORDERS = (
    "T", "T-lap", "lap", "dx", "dy", "dx-", "dx+", "dy-", "dy+", "dxx", "dyy", "dxy",
)  # fmt: skip
"""Of derivatives: none; less half its Laplacian; the Laplacian; centred first differences; first
differences half a pixel before and after the middle; second differences."""

# Order -> products of a part along y and a part along x, with their weights.
PRODUCTS: Mapping[str, tuple[tuple[float, str, str], ...]] = {
    "T": ((1, "g", "g"),),
    "lap": ((1, "g", "gg"), (1, "gg", "g")),
    "T-lap": ((1, "g", "g"), (-0.5, "g", "gg"), (-0.5, "gg", "g")),
    "dx": ((1, "g", "d"),),
    "dy": ((1, "d", "g"),),
    "dx-": ((1, "g", "-"),),
    "dx+": ((1, "g", "+"),),
    "dy-": ((1, "-", "g"),),
    "dy+": ((1, "+", "g"),),
    "dxx": ((1, "g", "gg"),),
    "dyy": ((1, "gg", "g"),),
    "dxy": ((1, "d", "d"),),
}


def gaussian(sigma: float | np.ndarray, radius: int) -> np.ndarray:
    """Give ``exp(-s) I_n(s)`` with ``s = sigma^2`` for n from -radius to radius, in the last axis.

    ``I_n`` is the modified Bessel function. The values sum to one over all n, and their variance is
    ``sigma^2``.
    """
    from scipy.special import ive

    n = np.abs(np.arange(-radius, radius + 1))
    return np.asarray(ive(n, np.square(np.asarray(sigma, np.float64))[..., None]))


def axis_parts(sigma: float | np.ndarray, length: int) -> dict[str, np.ndarray]:
    """Give the Gaussian and its differences along one axis of an odd length, in the last axis."""
    wide = gaussian(sigma, length // 2 + 1)
    before, here, after = wide[..., :-2], wide[..., 1:-1], wide[..., 2:]
    return {
        "g": here,
        "d": (after - before) / 2,
        "-": here - before,
        "+": after - here,
        "gg": before - 2 * here + after,
    }


def derivative(order: str, sigma_x: float, sigma_y: float, size: Size) -> np.ndarray:
    """Make a kernel of the family.

    Args:
        order: of ``ORDERS``.
        sigma_x: scale along the width, in pixels.
        sigma_y: scale along the height.
        size: height and width, both odd.

    Returns:
        ``(height, width)``, as the formula gives it: neither mean-free nor of unit norm.
    """
    along_y, along_x = axis_parts(sigma_y, size[0]), axis_parts(sigma_x, size[1])
    kernel: np.ndarray = sum(
        weight * np.outer(along_y[y], along_x[x]) for weight, y, x in PRODUCTS[order]
    )  # type: ignore[assignment]
    return kernel


class Derivative(NamedTuple):
    """A member of the family, whatever the kernel size.

    Attributes:
        order: of ``ORDERS``.
        sigma_x: scale along the width, in pixels.
        sigma_y: scale along the height.
    """

    order: str
    sigma_x: float
    sigma_y: float


def can_fit(size: Size) -> bool:
    """Tell whether kernels of a size have a middle and neighbours: both sides odd, at least 3."""
    return all(side >= 3 and side % 2 for side in size)
