"""The identity kernel: a one in the centre."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank


def identity(size: tuple[int, int]) -> FilterBank | None:
    """Make the bank.

    Args:
        size: height and width.

    Returns:
        The bank, or None unless both are odd, for only then is there a middle.
    """
    height, width = size
    if height % 2 == 0 or width % 2 == 0:
        return None
    kernel = np.zeros(size)
    kernel[height // 2, width // 2] = 1.0
    return FilterBank("identity", kernel[None], ("identity",), __doc__ or "")
