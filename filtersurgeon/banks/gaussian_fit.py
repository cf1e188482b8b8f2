"""The derivative of a discrete Gaussian that comes closest to each of many kernels."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from filtersurgeon.banks.closest import unit_bank
from filtersurgeon.banks.scale_space import ORDERS, Size, apply_order, gaussian

SMALLEST = 0.2
"""Scale from which a Gaussian is more than one pixel."""

_STEPS = 16  # of the table of scales between two of the first grid
_TRIED = 3  # orders that are refined for each kernel
_BLOCK = 2048


class GaussianFit(NamedTuple):
    """The closest derivative of a discrete Gaussian to each of N kernels.

    Attributes:
        order: ``(N,)`` indices into ``ORDERS``; -1 for a constant kernel.
        sigma_x: ``(N,)`` scale along the width, in pixels.
        sigma_y: ``(N,)`` scale along the height.
        residual: ``(N,)`` norm of what the closest linear transform of it leaves, as a share of
            the norm of the mean-free kernel; 0 is a perfect fit, 1 none.
    """

    order: np.ndarray
    sigma_x: np.ndarray
    sigma_y: np.ndarray
    residual: np.ndarray


def fit_gaussians(kernels: np.ndarray, size: Size) -> GaussianFit:
    """Fit each kernel by the closest linear transform ``a * g + b`` of a derivative of a Gaussian.

    Of every order, scales from 0.2 to the side of the kernel are tried on a grid; the three best
    orders are refined to steps of 1.6 %, the resolution of the result.

    Args:
        kernels: ``(N, height * width)``.
        size: height and width, for which :func:`can_fit` holds.
    """
    family = _family(size)
    found = GaussianFit(np.full(len(kernels), -1), *np.full((3, len(kernels)), np.nan))
    for begin in range(0, len(kernels), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        for whole, fitted in zip(found, family.fit(kernels[part]), strict=True):
            whole[part] = fitted
    return found


class _Family:
    """All derivatives of one kernel size, in tables of scales."""

    def __init__(self, size: Size) -> None:
        self.size = size
        ratio = 1.29  # from one scale of the first grid to the next
        # Both axes have the same scales; the longer side decides how far they go.
        count = 1 + int(np.ceil(np.log(max(size) / SMALLEST) / np.log(ratio)))
        fine = (count - 1) * _STEPS + 1
        self.scales = SMALLEST * ratio ** (np.arange(fine) / _STEPS)
        self.y, self.x = (gaussian(self.scales, side // 2 + 1) for side in size)
        grid = np.arange(0, fine, _STEPS)
        iy, ix = (part.ravel() for part in np.meshgrid(grid, grid, indexing="ij"))
        self.grid = iy, ix
        self.templates = np.stack([self._unit(order, iy, ix) for order in ORDERS])

    def _unit(self, order: str, iy: np.ndarray, ix: np.ndarray) -> np.ndarray:
        """Give mean-free kernels of unit norm at places of the table, ``(N, height * width)``."""
        made = apply_order(order, self.y[iy][:, :, None] * self.x[ix][:, None, :])
        return unit_bank(made.reshape(len(iy), -1))

    def fit(self, kernels: np.ndarray) -> GaussianFit:
        """Fit a block of kernels."""
        unit = unit_bank(kernels.astype(np.float64))
        n = len(unit)
        orders, cells, m = self.templates.shape
        cosines = np.abs(unit @ self.templates.reshape(-1, m).T).reshape(n, orders, cells)
        at, best = cosines.argmax(axis=2), cosines.max(axis=2)
        leading = np.argsort(-best, axis=1, kind="stable")[:, :_TRIED]
        result = GaussianFit(np.full(n, -1), np.zeros(n), np.zeros(n), np.full(n, 1.0))
        cosine = np.full(n, -1.0)
        for order, name in enumerate(ORDERS):
            rows = np.flatnonzero((leading == order).any(axis=1))
            if not len(rows):
                continue
            cell = at[rows, order]
            iy, ix, value = self._refine(name, unit[rows], self.grid[0][cell], self.grid[1][cell])
            # A later order must be better by more than rounding.
            better = value > cosine[rows] + 1e-9
            chosen = rows[better]
            cosine[chosen] = value[better]
            result.order[chosen] = order
            result.sigma_y[chosen] = self.scales[iy[better]]
            result.sigma_x[chosen] = self.scales[ix[better]]
        result.residual[:] = np.sqrt(np.clip(1 - np.square(cosine), 0, 1))
        constant = ~unit.any(axis=1)
        result.order[constant] = -1
        for values in result[1:]:
            values[constant] = np.nan
        return result

    def _refine(
        self, order: str, unit: np.ndarray, iy: np.ndarray, ix: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Walk from places of the grid to the best ones near them, in steps that get smaller."""
        last, rows = len(self.scales) - 1, np.arange(len(unit))
        step = _STEPS // 2
        value = np.zeros(len(unit))
        while step:
            for _ in range(2):
                around = [(dy, dx) for dy in (0, -step, step) for dx in (0, -step, step)]
                ys = np.stack([np.clip(iy + dy, 0, last) for dy, _ in around])
                xs = np.stack([np.clip(ix + dx, 0, last) for _, dx in around])
                values = np.stack(
                    [
                        np.abs((self._unit(order, y, x) * unit).sum(axis=1))
                        for y, x in zip(ys, xs, strict=True)
                    ]
                )
                best = values.argmax(axis=0)
                iy, ix, value = ys[best, rows], xs[best, rows], values[best, rows]
            step //= 2
        return iy, ix, value


@cache
def _family(size: Size) -> _Family:
    return _Family(size)
