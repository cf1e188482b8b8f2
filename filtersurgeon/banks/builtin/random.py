"""Kernels of uniform random values from -1 to 1: random-9, random-16 and so on."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.errors import OptionError

LARGEST = 4096


def random(size: Size, *, count: int = 9, seed: int = 0) -> FilterBank:
    """Make the bank.

    The first kernels of a larger bank are those of a smaller one of the same seed.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 6.2.

    Args:
        size: height and width.
        count: number of kernels.
        seed: of what is drawn.

    Raises:
        OptionError: too many kernels.
    """
    if not 1 <= count <= LARGEST:
        raise OptionError(f"bank random-{count}: there are 1 to {LARGEST} kernels")
    kernels = np.random.default_rng(seed).uniform(-1, 1, (count, *size))
    names = tuple(f"random {number}" for number in range(1, count + 1))
    return FilterBank(f"random-{count}", kernels, names, __doc__ or "")
