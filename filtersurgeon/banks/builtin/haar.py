"""Haar's wavelet at the size of the kernel: average, horizontal, vertical and diagonal details."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.bank import FilterBank


def haar(size: tuple[int, int]) -> FilterBank | None:
    """Make the four products of a constant and a step, each of unit norm.

    At an odd size the step passes through zero in the middle.
    Source: Haar, *Zur Theorie der orthogonalen Funktionensysteme*, 1910.

    Args:
        size: height and width, any of at least 2.

    Returns:
        The bank, or None for a kernel with a side of 1.
    """
    if min(size) < 2:
        return None
    (flat_y, step_y), (flat_x, step_x) = (_pair(n) for n in size)
    kernels = np.stack(
        [np.outer(y, x) for y, x in (
            (flat_y, flat_x), (flat_y, step_x), (step_y, flat_x), (step_y, step_x)
        )]
    )  # fmt: skip
    labels = ("average", "horizontal", "vertical", "diagonal")
    return FilterBank("haar", kernels, labels, __doc__ or "")


def _pair(n: int) -> tuple[np.ndarray, np.ndarray]:
    step = np.sign(np.arange(n) - (n - 1) / 2)
    return np.full(n, n**-0.5), step / np.linalg.norm(step)
