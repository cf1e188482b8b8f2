"""What a comparison of two networks found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import DataError
from filtersurgeon.learn.difference import Difference
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.learn.measure import Latency

SCHEMA = "filtersurgeon.comparison/1"


@dataclass(frozen=True)
class Side:
    """One network's own figures.

    Attributes:
        name: how it is called.
        parameters: number of weights.
        macs: multiply-accumulates per image.
        file_bytes: size of its file, or None.
        latency: time of a forward pass, or None.
        evaluation: right answers on labelled images, or None.
    """

    name: str
    parameters: int
    macs: int
    file_bytes: int | None
    latency: Latency | None
    evaluation: Evaluation | None


@dataclass(frozen=True)
class Comparison:
    """Two networks and how far their outputs are apart.

    Attributes:
        first: the reference.
        second: the network compared with it.
        difference: of their outputs.
    """

    first: Side
    second: Side
    difference: Difference

    def __repr__(self) -> str:
        entries = (
            f"{side.name}: {side.parameters} parameters, {side.macs} MACs"
            + ("" if side.evaluation is None else f", top-1 {side.evaluation.accuracy:.2%}")
            for side in (self.first, self.second)
        )
        return summarise(self, entries, relative_max=float(f"{self.difference.relative_max:.3g}"))

    def failures(self, max_diff: float | None = None, max_drop: float | None = None) -> list[str]:
        """Say which limits do not hold.

        Args:
            max_diff: greatest relative output difference allowed.
            max_drop: greatest loss of top-1 accuracy allowed, in percentage points.

        Raises:
            DataError: a drop was asked for without labelled images.
        """
        found = []
        # Written so that nothing passes a limit that is not a number.
        if max_diff is not None and not self.difference.relative_max <= max_diff:
            largest = self.difference.relative_max
            found.append(f"outputs differ by up to {largest:.3g} (relative), allowed {max_diff:g}")
        if max_drop is not None:
            if self.first.evaluation is None or self.second.evaluation is None:
                raise DataError("a drop of accuracy can only be checked on labelled images")
            drop = 100 * (self.first.evaluation.accuracy - self.second.evaluation.accuracy)
            if not drop <= max_drop:
                found.append(f"top-1 drops by {drop:.2f} percentage points, allowed {max_drop:g}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON form."""
        return {
            "schema": SCHEMA,
            "first": _side_dict(self.first),
            "second": _side_dict(self.second),
            "difference": self.difference.to_dict(),
        }


def short_names(comparison: Comparison) -> tuple[str, str]:
    """Give two names that fit above columns: files without folders where that tells them apart."""
    first, second = comparison.first.name, comparison.second.name
    short = Path(first).name, Path(second).name
    if short[0] == short[1] and first != second:
        return first, second
    return short


def _side_dict(side: Side) -> dict[str, Any]:
    return {
        **asdict(side),
        "evaluation": None if side.evaluation is None else side.evaluation.to_dict(),
    }
