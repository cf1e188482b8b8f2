"""Derivatives of discrete Gaussians, kernels of any odd size from one formula.

Source of the family: Lindeberg, *Scale-Space for Discrete Signals*, 1990.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Size = tuple[int, int]

ORDERS = (
    "T", "T-lap", "lap", "dx", "dy", "dx-", "dx+", "dy-", "dy+", "dxx", "dyy", "dxy",
)  # fmt: skip
"""Of derivatives: none; less half its Laplacian; the Laplacian; centred first differences; first
differences half a pixel before and after the middle; second differences."""


def gaussian(sigma: float | np.ndarray, radius: int) -> np.ndarray:
    """Give ``exp(-s) I_n(s)`` with ``s = sigma^2`` for n from -radius to radius, in the last axis.

    ``I_n`` is the modified Bessel function. The values sum to one over all n, and their variance is
    ``sigma^2``.
    """
    from scipy.special import ive

    n = np.abs(np.arange(-radius, radius + 1))
    return np.asarray(ive(n, np.square(np.asarray(sigma, np.float64))[..., None]))


def apply_order(order: str, T: np.ndarray) -> np.ndarray:
    """Take a derivative of Gaussians.

    Args:
        order: of ``ORDERS``.
        T: ``(..., height + 2, width + 2)``, with the neighbours of the kernel's border.

    Returns:
        ``(..., height, width)``.
    """
    middle, before, after = slice(1, -1), slice(None, -2), slice(2, None)
    here = T[..., middle, middle]
    left, right = T[..., middle, before], T[..., middle, after]
    above, below = T[..., before, middle], T[..., after, middle]
    if order == "dxy":
        falling = T[..., before, before] + T[..., after, after]
        return (falling - T[..., before, after] - T[..., after, before]) / 4
    made = {
        "T": lambda: here,
        "T-lap": lambda: here - 0.5 * (left + right + above + below - 4 * here),
        "lap": lambda: left + right + above + below - 4 * here,
        "dx": lambda: (right - left) / 2,
        "dy": lambda: (below - above) / 2,
        "dx-": lambda: here - left,
        "dx+": lambda: right - here,
        "dy-": lambda: here - above,
        "dy+": lambda: below - here,
        "dxx": lambda: left - 2 * here + right,
        "dyy": lambda: above - 2 * here + below,
    }
    return np.asarray(made[order]())


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
    along_y, along_x = (
        gaussian(sigma, side // 2 + 1) for sigma, side in zip((sigma_y, sigma_x), size, strict=True)
    )
    return apply_order(order, np.outer(along_y, along_x))


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
