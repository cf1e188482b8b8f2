"""ExplainSteer's energy spectra of a set of kernels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from filtersurgeon.explain.basis import Basis


@dataclass(frozen=True)
class Spectrum:
    """How much energy each basis filter contributes to some kernels.

    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.2.

    Attributes:
        name: the layer's, or of the whole.
        basis: m filters of size ``(height, width)``.
        n_kernels: how many kernels.
        e2: ``(m,)`` Eq. 3, the weighted sum over the kernels of ``|kernel . basis filter|``, in the
            order of the basis.
        error: ``(m,)`` standard error of ``e2`` as an estimate from that many kernels; None where
            kernels have weights of their own.
    """

    name: str
    basis: Basis
    n_kernels: int
    e2: np.ndarray
    error: np.ndarray | None = None

    @property
    def e1(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Eq. 5: energies of the vertical ``(height,)`` and horizontal ``(width,)`` 1-D vectors.

        Each sums the square roots of ``e2`` over the basis filters that it builds. None if the
        basis is not separable.
        """
        if self.basis.parts is None:
            return None
        roots, (height, width) = np.sqrt(self.e2), self.basis.size
        vertical, horizontal = self.basis.parts.T
        return np.bincount(vertical, roots, height), np.bincount(horizontal, roots, width)

    @property
    def e0(self) -> np.ndarray | None:
        """Eq. 6: energy of every frequency, ``(height,)``, the mean over the two axes.

        None if the kernels are not square, where the axes have no frequencies in common, or if
        the basis is not separable.
        """
        if self.e1 is None or self.basis.size[0] != self.basis.size[1]:
            return None
        return (self.e1[0] + self.e1[1]) / 2

    @property
    def energy(self) -> float:
        """Sum of ``e2``."""
        return float(self.e2.sum())

    @property
    def low_share(self) -> float:
        """Share of the energy below half of the highest frequency; filters at the half count half.

        A flat spectrum over the DCT-II has 0.5, constant kernels have 1, no energy gives 0.
        """
        frequencies = self.basis.frequencies
        weight = np.where(np.isclose(frequencies, 0.5), 0.5, frequencies < 0.5)
        return float(self.e2 @ weight) / self.energy if self.energy else 0.0

    def to_json(self) -> dict[str, Any]:
        """Give the spectrum as it stands in the JSON of an explanation."""
        return {
            "name": self.name,
            "kernel_size": list(self.basis.size),
            "kernels": self.n_kernels,
            "energy": self.energy,
            "low_share": self.low_share,
            "e2": self.e2.tolist(),
            "e1": None if self.e1 is None else [axis.tolist() for axis in self.e1],
            "e0": None if self.e0 is None else self.e0.tolist(),
        }


def spectrum(
    name: str, blocks: Iterable[np.ndarray], basis: Basis, weights: np.ndarray | None = None
) -> Spectrum:
    """Evaluate Eq. 3 over kernels that come in blocks.

    Args:
        name: what the spectrum is of.
        blocks: arrays ``(n, m)`` of flattened kernels.
        basis: of the same m.
        weights: one per kernel over all blocks, not negative; None weighs them all by one over
            their number.
    """
    total, squares, n = np.zeros(len(basis.vectors)), np.zeros(len(basis.vectors)), 0
    for kernels in blocks:
        coefficients = np.abs(kernels @ basis.vectors.T)
        if weights is None:
            total += coefficients.sum(axis=0)
            squares += np.square(coefficients).sum(axis=0)
        else:
            total += weights[n : n + len(kernels)] @ coefficients
        n += len(kernels)
    if weights is not None:
        return Spectrum(name, basis, n, total)
    variance = np.maximum(squares / n - (total / n) ** 2, 0.0)
    return Spectrum(name, basis, n, total / n, np.sqrt(variance / n))


def whole(name: str, parts: Sequence[Spectrum]) -> Spectrum:
    """Join the spectra of layers with one basis into that of all their kernels.

    Uniform weights are one over the number of all kernels; other weights are as they were.
    """
    counts = np.array([part.n_kernels for part in parts], np.float64)
    energies = np.stack([part.e2 for part in parts])
    basis, n = parts[0].basis, int(counts.sum())
    errors = [part.error for part in parts if part.error is not None]
    if len(errors) < len(parts):
        return Spectrum(name, basis, n, energies.sum(axis=0))
    shares = counts / n
    mean = shares @ energies
    within = np.square(errors).T * counts  # variances of single kernels about their layer's mean
    variance = within @ shares + shares @ np.square(energies - mean)
    return Spectrum(name, basis, n, mean, np.sqrt(variance / n))
