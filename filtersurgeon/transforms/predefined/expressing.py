"""Trained kernels, expressed in a bank by least squares."""

from __future__ import annotations

import numpy as np


def express(kernels: np.ndarray, filters: np.ndarray, which: np.ndarray) -> np.ndarray:
    """Find the weights that come closest to kernels; of several best ones, the smallest.

    The kernel of input channel c may be any sum of that channel's filters (Linse, *Towards
    Understanding CNNs Through Visualization and Systematic Simplification*, 2025, Eq. 1.4). It is
    met exactly where they span the kernels.

    Args:
        kernels: ``(out, in, kh, kw)``.
        filters: ``(k, kh, kw)``.
        which: ``(in * growth,)``, the filters of each channel one after the other.

    Returns:
        ``(out, in * growth)`` float64, what each filter's result is multiplied by.
    """
    out, channels = kernels.shape[:2]
    flat = kernels.astype(np.float64).reshape(out, channels, -1)
    bank = filters.astype(np.float64).reshape(len(filters), -1)
    weights = np.empty((out, channels, len(which) // channels))
    sets = which.reshape(channels, -1)
    for chosen in np.unique(sets, axis=0):
        same = (sets == chosen).all(axis=1)
        weights[:, same] = flat[:, same] @ np.linalg.pinv(bank[chosen])
    return weights.reshape(out, -1)


def relative_error(
    kernels: np.ndarray, weights: np.ndarray, filters: np.ndarray, which: np.ndarray
) -> float:
    """Give ``||sum of weighted filters - kernel|| / ||kernel||`` over a layer; 0 for one of zeros.

    Args:
        kernels: ``(out, in, kh, kw)``.
        weights: ``(out, in * growth)``.
        filters: ``(k, kh, kw)``.
        which: ``(in * growth,)``.
    """
    out, channels = kernels.shape[:2]
    chosen = filters.astype(np.float64).reshape(len(filters), -1)[which]
    wanted = kernels.astype(np.float64).reshape(out, channels, -1)
    energy = float(np.square(wanted).sum())
    each = weights.astype(np.float64).reshape(out, channels, -1)
    sums = np.einsum("ocf,cfm->ocm", each, chosen.reshape(channels, -1, chosen.shape[1]))
    return float(np.sqrt(np.square(sums - wanted).sum() / energy)) if energy else 0.0
