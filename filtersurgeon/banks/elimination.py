"""Greedy elimination: the members of a bank that kernels miss least go first."""

from __future__ import annotations

import numpy as np


class Elimination:
    """Which of the members left stands for which kernel, and what each member's removal costs.

    Only the kernels that used a removed member are assigned anew, from the members that are left.
    The error of a kernel f by a unit member g and an offset is ``|f - mean(f)|^2 - <g, f>^2``
    (Babaiee et al., 2024, App. A.1), so a table of squared products tells everything.

    Args:
        kernels: ``(N, m)``.
        unit: ``(K, m)`` mean-free members of unit norm.

    Attributes:
        left: indices of the members left, ascending.
        choice: ``(N,)`` the member that stands for each kernel, the first of equally good ones.
        energy: ``|f|^2`` summed over the kernels.
    """

    def __init__(self, kernels: np.ndarray, unit: np.ndarray) -> None:
        values = kernels.astype(np.float64)
        self.energy = float(np.square(values).sum())
        centred = values - values.mean(axis=1, keepdims=True)
        self._spread = float(np.square(centred).sum())
        self._gains = np.square(values @ unit.T)
        self.left = np.arange(len(unit))
        self.choice = np.empty(len(kernels), np.intp)
        self._best, self._second = np.empty(len(kernels)), np.empty(len(kernels))
        self._runner_up = np.empty(len(kernels), np.intp)
        self._assign(np.arange(len(kernels)))

    @property
    def relative_error(self) -> float:
        """``||new - old|| / ||old||`` over all kernels, with the members left."""
        lost = max(self._spread - float(self._best.sum()), 0.0)
        return float((lost / self.energy) ** 0.5) if self.energy else 0.0

    def usage(self) -> np.ndarray:
        """Count the kernels of each member left."""
        counts = np.bincount(self.choice, minlength=self._gains.shape[1])
        used: np.ndarray = counts[self.left]
        return used

    def costs(self) -> np.ndarray:
        """Give the squared error that the removal of each member left would add."""
        losses = np.bincount(
            self.choice, weights=self._best - self._second, minlength=self._gains.shape[1]
        )
        costs: np.ndarray = losses[self.left]
        return costs

    def remove(self, member: int) -> np.ndarray:
        """Remove a member; gives the kernels that it stood for."""
        self.left = self.left[self.left != member]
        orphans = np.flatnonzero(self.choice == member)
        self._assign(np.flatnonzero((self.choice == member) | (self._runner_up == member)))
        return orphans

    def _assign(self, rows: np.ndarray) -> None:
        """Find the best and the second-best member left of some kernels."""
        gains = self._gains[rows][:, self.left]
        best = gains.argmax(axis=1)
        every = np.arange(len(rows))
        self.choice[rows], self._best[rows] = self.left[best], gains[every, best]
        gains[every, best] = -1.0
        second = gains.argmax(axis=1)
        alone = len(self.left) == 1
        self._runner_up[rows] = -1 if alone else self.left[second]
        self._second[rows] = 0.0 if alone else gains[every, second]


def elbow(values: list[float]) -> int:
    """Give the position where a curve turns: the one farthest from the line of its ends.

    Args:
        values: of evenly spaced places; at least one.
    """
    heights = np.array(values)
    places = np.linspace(0, 1, len(heights)) if len(heights) > 1 else np.zeros(1)
    line = heights[0] + (heights[-1] - heights[0]) * places
    return int(np.abs(heights - line).argmax())
