"""The course of a search: from a bank to few members by greedy elimination."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from filtersurgeon.archetypes.elbow import elbow
from filtersurgeon.banks import FilterBank
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import OptionError


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


SCHEMA = "filtersurgeon.bank-search/1"


@dataclass(frozen=True)
class SearchStep:
    """The bank at one size.

    Attributes:
        size: number of members.
        removed: the label of the member removed last; None at first.
        relative_error: ``||new - old|| / ||old||`` over all kernels.
        wrong: number of wrong images, or None without images.
    """

    size: int
    removed: str | None
    relative_error: float
    wrong: int | None


@dataclass(frozen=True)
class BankSearch:
    """The result of a greedy search for few members of a bank.

    Attributes:
        criterion: ``accuracy`` or ``error``.
        start: the bank at the beginning.
        steps: from the whole bank to the last size.
        images: number of images; 0 without.
        original_wrong: wrong images of the network before anything was replaced, or None.
        data: name of the data set and the split that was read; empty without images.
    """

    criterion: str
    start: FilterBank
    steps: tuple[SearchStep, ...]
    images: int = 0
    original_wrong: int | None = None
    data: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        entries = (
            f"{step.size} members: relative error {step.relative_error:.3g}"
            + ("" if step.wrong is None else f", {step.wrong} images wrong")
            for step in self.steps
        )
        return summarise(
            self, entries, criterion=self.criterion, start=self.start.name, images=self.images
        )

    @property
    def bank(self) -> FilterBank:
        """The members left at the end."""
        return self.at(self.steps[-1].size)

    @property
    def elbow(self) -> int:
        """The size at which the curve turns: farthest from the line between its ends."""
        return self.steps[elbow([self.value(step) for step in self.steps])].size

    def value(self, step: SearchStep) -> float:
        """Give what the criterion sees: accuracy in 0..1, or relative error."""
        return step.relative_error if step.wrong is None else 1 - step.wrong / self.images

    def at(self, size: int) -> FilterBank:
        """Give the bank at a size that the search went through; raises OptionError at others."""
        if size not in [step.size for step in self.steps]:
            raise OptionError(f"the search went from {self.steps[0].size} to {self.steps[-1].size}")
        gone = {step.removed for step in self.steps if step.size >= size}
        kept = [k for k, label in enumerate(self.start.labels) if label not in gone]
        labels = tuple(self.start.labels[k] for k in kept)
        text = f"{size} of {self.start.name}, by greedy elimination ({self.criterion}"
        text += f" on {' '.join(self.data.values())})" if self.data else ")"
        return FilterBank(f"{self.start.name}-{size}", self.start.kernels[kept], labels, text)

    def to_json(self) -> dict[str, Any]:
        """Give the search in its JSON schema, ``filtersurgeon.bank-search/1``."""
        content: dict[str, Any] = {
            "schema": SCHEMA,
            "criterion": self.criterion,
            "bank": self.start.name,
            "elbow": self.elbow,
            "members": list(self.bank.labels),
        }
        if self.original_wrong is not None:
            content |= {
                "images": self.images,
                "original_accuracy": 1 - self.original_wrong / self.images,
                **({"data": dict(self.data)} if self.data else {}),
            }
        steps = []
        for step in self.steps:
            row = asdict(step)
            if step.wrong is not None:
                row["accuracy"] = self.value(step)
            steps.append({k: v for k, v in row.items() if k != "wrong" or v is not None})
        return {**content, "steps": steps}
