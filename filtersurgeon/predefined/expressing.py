"""Trained kernels, expressed in a bank by least squares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Expression(NamedTuple):
    """Kernels as sums of filters.

    Attributes:
        weights: ``(out, in * growth)`` float64, what each filter's result is multiplied by.
        lost: ``||sum - kernel||^2`` over all kernels.
        energy: ``||kernel||^2`` over all kernels.
    """

    weights: np.ndarray
    lost: float
    energy: float

    @property
    def relative_error(self) -> float:
        """``||sum - kernel|| / ||kernel||`` over the layer; 0 for a layer of zeros."""
        return float(np.sqrt(self.lost / self.energy)) if self.energy else 0.0


def express(kernels: np.ndarray, filters: np.ndarray, which: np.ndarray) -> Expression:
    """Find the weights that come closest to kernels; of several best ones, the smallest.

    The kernel of input channel c may be any sum of that channel's filters (Linse, *Towards
    Understanding CNNs Through Visualization and Systematic Simplification*, 2025, Eq. 1.4). It is
    met exactly where they span the kernels.

    Args:
        kernels: ``(out, in, kh, kw)``.
        filters: ``(k, kh, kw)``.
        which: ``(in * growth,)``, the filters of each channel one after the other.
    """
    out, channels = kernels.shape[:2]
    flat = kernels.astype(np.float64).reshape(out, channels, -1)
    bank = filters.astype(np.float64).reshape(len(filters), -1)
    weights = np.empty((out, channels, len(which) // channels))
    lost, sets = 0.0, which.reshape(channels, -1)
    for chosen in np.unique(sets, axis=0):
        same = (sets == chosen).all(axis=1)
        members = bank[chosen]
        weights[:, same] = flat[:, same] @ np.linalg.pinv(members)
        lost += float(np.square(weights[:, same] @ members - flat[:, same]).sum())
    return Expression(weights.reshape(out, -1), lost, float(np.square(flat).sum()))
