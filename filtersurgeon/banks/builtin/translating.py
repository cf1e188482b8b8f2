"""Kernels that shift an image by at most half their size: one element is one, the others zero."""

from __future__ import annotations

from math import prod

import numpy as np

from filtersurgeon.banks.bank import FilterBank, Size


def translating(size: Size) -> FilterBank:
    """Make the bank; its kernels are the canonical basis, in raster order.

    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 6.2.

    Args:
        size: height and width.
    """
    places = [f"{row} {column}" for row in range(size[0]) for column in range(size[1])]
    kernels = np.eye(prod(size)).reshape(-1, *size)
    return FilterBank("translating", kernels, tuple(places), __doc__ or "")
