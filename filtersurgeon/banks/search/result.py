"""The way that a search went from a bank to few members."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.elimination import elbow
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import OptionError

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
    """The way from a bank to few members.

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
