"""What an evaluation found: counts that add."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from math import isfinite, nan, sqrt
from typing import Any

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import DataError

SCHEMA = "filtersurgeon.evaluation/1"


@dataclass(frozen=True)
class Evaluation:
    """Counts over a set of images; the sum of two is the evaluation of both sets together.

    Attributes:
        n_images: images evaluated.
        top1: how often the true class had the greatest output.
        top5: how often it was among the five greatest (fewer for a head with fewer classes).
        loss_sum: summed cross-entropy, in nats.
        class_images: per class, how many images are of it.
        class_correct: per class, how many of them are right.
        confusion: rows true, columns predicted; None if it was not asked for.
        seconds: time spent, summed over parts that ran side by side.
    """

    n_images: int
    top1: int
    top5: int
    loss_sum: float
    class_images: tuple[int, ...]
    class_correct: tuple[int, ...]
    confusion: tuple[tuple[int, ...], ...] | None
    seconds: float

    def __repr__(self) -> str:
        n = self.n_images
        return summarise(
            self,
            images=n,
            classes=len(self.class_images),
            accuracy=round(self.accuracy, 4) if n else None,
            loss=round(self.loss, 4) if n else None,
        )

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in 0..1."""
        return self.top1 / self.n_images

    @property
    def accuracy5(self) -> float:
        """Top-5 accuracy in 0..1."""
        return self.top5 / self.n_images

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.loss_sum / self.n_images

    @property
    def images_per_second(self) -> float:
        """Speed, reading and preprocessing included."""
        return self.n_images / self.seconds if self.seconds > 0 else float("inf")

    def interval(self, z: float = 1.959963984540054) -> tuple[float, float]:
        """Give the Wilson interval of the top-1 accuracy; the default is the 95 % one."""
        return wilson_interval(self.top1, self.n_images, z)

    def __add__(self, other: Evaluation) -> Evaluation:
        """Join the evaluations of two disjoint sets of images."""
        if len(self.class_images) != len(other.class_images):
            raise DataError(
                f"evaluations of {len(self.class_images)} and {len(other.class_images)} classes"
                " cannot be added"
            )
        return Evaluation(
            n_images=self.n_images + other.n_images,
            top1=self.top1 + other.top1,
            top5=self.top5 + other.top5,
            loss_sum=self.loss_sum + other.loss_sum,
            class_images=_add(self.class_images, other.class_images),
            class_correct=_add(self.class_correct, other.class_correct),
            confusion=_add_tables(self.confusion, other.confusion),
            seconds=self.seconds + other.seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON form: the counts, and what follows from them for people to read.

        Null stands for a number that is not finite.
        """
        low, high = self.interval()
        return {
            "schema": SCHEMA,
            **asdict(self),
            "loss_sum": _finite(self.loss_sum),
            "accuracy": self.accuracy,
            "accuracy5": self.accuracy5,
            "loss": _finite(self.loss),
            "interval95": [low, high],
            "images_per_second": _finite(self.images_per_second),
        }

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Evaluation:
        """Read the JSON form back.

        Raises:
            DataError: another kind or version of document.
        """
        if found.get("schema") != SCHEMA:
            raise DataError(f"not a {SCHEMA} document but {found.get('schema')!r}")
        table = found["confusion"]
        return cls(
            n_images=found["n_images"],
            top1=found["top1"],
            top5=found["top5"],
            loss_sum=nan if found["loss_sum"] is None else found["loss_sum"],
            class_images=tuple(found["class_images"]),
            class_correct=tuple(found["class_correct"]),
            confusion=None if table is None else tuple(tuple(row) for row in table),
            seconds=found["seconds"],
        )


def merge(parts: Iterable[Evaluation]) -> Evaluation:
    """Add the evaluations of disjoint parts of a dataset.

    Raises:
        DataError: there are no parts.
    """
    found = list(parts)
    if not found:
        raise DataError("there is nothing to merge: no part was evaluated")
    return reduce(Evaluation.__add__, found)


def wilson_interval(
    successes: int, trials: int, z: float = 1.959963984540054
) -> tuple[float, float]:
    """Give Wilson's score interval of a proportion.

    The proportions p with ``|successes / trials - p| <= z sqrt(p (1 - p) / trials)``.

    Args:
        successes: how many of the trials succeeded.
        trials: how many there were; with none the interval is all of 0..1.
        z: half-width in standard deviations of the normal distribution.

    Returns:
        Lower and upper end.

    Source:
        E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209-212.
    """
    if trials == 0:
        return 0.0, 1.0
    share, spread = successes / trials, z * z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = z * sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    # Rounding must not exclude the proportion itself at the ends.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _add(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _add_tables(
    first: tuple[tuple[int, ...], ...] | None, second: tuple[tuple[int, ...], ...] | None
) -> tuple[tuple[int, ...], ...] | None:
    if first is None or second is None:
        return None
    return tuple(_add(a, b) for a, b in zip(first, second, strict=True))
