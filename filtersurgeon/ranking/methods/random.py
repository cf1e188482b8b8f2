"""A random order, the baseline that every other method has to beat."""

from __future__ import annotations

import numpy as np


def random(filters: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Score N filters, ``(N, l)``, by independent draws from U[0, 1).

    Returns:
        ``(N,)``, without unit.
    """
    return np.random.default_rng(seed).random(len(filters))
