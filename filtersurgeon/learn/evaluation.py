"""What an evaluation found: counts that add, how they are made, and the intervals of accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import isfinite, nan, sqrt
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.errors import DataError
from filtersurgeon.networks.devices import copy_number, widest_float

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCHEMA = "filtersurgeon.evaluation/2"
_FORMER_SCHEMA = "filtersurgeon.evaluation/1"


@dataclass(frozen=True)
class Evaluation(Tabular):
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

    score_name: ClassVar[str] = "top-1"

    def __repr__(self) -> str:
        n = self.n_images
        return summarise(
            self,
            images=n,
            classes=len(self.class_images),
            accuracy=round(self.accuracy, 4) if n else None,
            loss=round(self.loss, 4) if n else None,
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each class that has images."""
        for number, (images, right) in enumerate(
            zip(self.class_images, self.class_correct, strict=True)
        ):
            if images:
                yield {
                    "class": number, "images": images, "right": right, "accuracy": right / images,
                }  # fmt: skip

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy in 0..1."""
        return self.top1 / self.n_images

    def figures(self) -> dict[str, str]:
        """Give what tables show of it, by the heads of their columns."""
        low, high = self.interval()
        return {
            "top-1 %": f"{100 * self.accuracy:.2f}",
            "95 % interval": f"{100 * low:.2f} to {100 * high:.2f}",
            "top-5 %": f"{100 * self.accuracy5:.2f}",
            "loss": f"{self.loss:.4f}",
        }

    @property
    def score(self) -> float:
        """What networks are compared by, greater being better: the top-1 accuracy."""
        return self.accuracy

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

    def to_dict(self, *, per_class: bool = False) -> dict[str, Any]:
        """Give the JSON form: shares, their interval, and the counts that they come from.

        Null stands for a number that is not finite.

        Args:
            per_class: also give the counts of every class.
        """
        found: dict[str, Any] = {
            "schema": SCHEMA,
            "n_images": self.n_images,
            "top1": self.accuracy,
            "interval95": [*self.interval()],
            "top1_count": self.top1,
            "top5": self.accuracy5,
            "top5_count": self.top5,
            "loss": finite(self.loss),
            "loss_sum": finite(self.loss_sum),
            "seconds": self.seconds,
            "images_per_second": finite(self.images_per_second),
        }
        if per_class:
            found |= {"class_images": self.class_images, "class_correct": self.class_correct}
        if self.confusion is not None:
            found["confusion"] = self.confusion
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Evaluation:
        """Read the JSON form back; version 1 is read too.

        Without counts of every class, the evaluation has none.

        Raises:
            DataError: another kind or version of document.
        """
        if found.get("schema") not in (SCHEMA, _FORMER_SCHEMA):
            raise DataError(f"not a {SCHEMA} document but {found.get('schema')!r}")
        count = "" if found["schema"] == _FORMER_SCHEMA else "_count"
        table = found.get("confusion")
        return cls(
            n_images=found["n_images"],
            top1=found[f"top1{count}"],
            top5=found[f"top5{count}"],
            loss_sum=nan if found["loss_sum"] is None else found["loss_sum"],
            class_images=tuple(found.get("class_images", ())),
            class_correct=tuple(found.get("class_correct", ())),
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


def unknown_accuracy(remedy: str, adapted: bool = False) -> str:
    """Warn that the accuracy of a changed network was not measured.

    Args:
        remedy: which parameters or commands show it.
        adapted: whether images were passed, but only to adapt the network to its changes.
    """
    reason = "the images only adapted the network" if adapted else "no images were passed"
    return f"accuracy unknown: {reason} ({remedy})"


def finite(value: float) -> float | None:
    """Give a number as JSON has it: None where it is not finite."""
    return value if isfinite(value) else None


def mean_known(values: Sequence[float | None]) -> float:
    """Give the mean of the values that are there; NaN where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else nan


def _add(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a + b for a, b in zip(first, second, strict=True))


def _add_tables(
    first: tuple[tuple[int, ...], ...] | None, second: tuple[tuple[int, ...], ...] | None
) -> tuple[tuple[int, ...], ...] | None:
    if first is None or second is None:
        return None
    return tuple(_add(a, b) for a, b in zip(first, second, strict=True))


class Counter:
    """Sums that grow batch by batch and become an ``Evaluation``.

    Args:
        n_classes: outputs of the network.
        device: where outputs and labels are.
        confusion: also count which class is taken for which.
    """

    def __init__(self, n_classes: int, device: torch.device, confusion: bool = False) -> None:
        import torch

        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.int64, device=device)

        self.n_classes = n_classes
        self.top5 = zeros()
        self.class_images, self.class_correct = zeros(n_classes), zeros(n_classes)
        self.confusion = zeros(n_classes * n_classes) if confusion else None
        self.loss = torch.zeros((), dtype=widest_float(device), device=device)

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch of outputs (images, classes) and labels (images).

        Sums stay on the device, so that the host does not wait for a batch.
        """
        import torch
        from torch.nn import functional

        if outputs.ndim != 2 or outputs.shape[1] != self.n_classes:
            raise DataError(
                f"the network gives outputs of shape {tuple(outputs.shape)},"
                f" but (images, {self.n_classes}) was expected"
            )
        outputs = outputs.float()
        self.loss += functional.cross_entropy(outputs, labels, reduction="sum").to(self.loss.dtype)
        predicted, greatest = outputs.argmax(1), outputs.topk(min(5, self.n_classes), 1).indices
        self.top5 += (greatest == labels[:, None]).any(1).sum()
        self.class_images.index_add_(0, labels, torch.ones_like(labels))
        self.class_correct.index_add_(0, labels, (predicted == labels).to(labels.dtype))
        if self.confusion is not None:
            cells = labels * self.n_classes + predicted
            self.confusion.index_add_(0, cells, torch.ones_like(labels))

    def running_metric(self) -> str:
        """Say the top-1 accuracy so far."""
        correct: int = copy_number(self.class_correct.sum())
        images: int = copy_number(self.class_images.sum())
        return f"top-1 {100 * correct / max(1, images):.2f} %"

    def result(self, seconds: float) -> Evaluation:
        """Give the counts so far; ``seconds`` is the time they took."""
        images, correct = self.class_images.tolist(), self.class_correct.tolist()
        confusion = None
        if self.confusion is not None:
            table = self.confusion.reshape(self.n_classes, self.n_classes).tolist()
            confusion = tuple(tuple(row) for row in table)
        return Evaluation(
            n_images=sum(images),
            top1=sum(correct),
            top5=copy_number(self.top5),
            loss_sum=copy_number(self.loss),
            class_images=tuple(images),
            class_correct=tuple(correct),
            confusion=confusion,
            seconds=seconds,
        )


class Estimate(NamedTuple):
    """A mean and its 95 % interval, as shares (0.9 is 90 %)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Give percent: the mean, then how far the farther end of the interval is from it."""
        half = max(self.high - self.mean, self.mean - self.low)
        return f"{100 * self.mean:.1f} ±{100 * half:.1f}"


def student_interval(values: Sequence[float]) -> Estimate:
    """Give the mean of independent values and Student's 95 % interval; a point for one value."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, mean, mean)
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return Estimate(mean, mean - half, mean + half)


def mean_accuracy(repeats: Sequence[Evaluation]) -> Estimate:
    """Give the mean top-1 accuracy of repeats.

    The interval is the wider of Student's over the repeats, which may all be the same, and
    Wilson's for the images of one repeat.
    """
    over = student_interval([found.accuracy for found in repeats])
    images = repeats[0].n_images
    low, high = wilson_interval(round(over.mean * images), images)
    if over.high - over.low > high - low:
        return Estimate(over.mean, max(0.0, over.low), min(1.0, over.high))
    return Estimate(over.mean, min(low, over.mean), max(high, over.mean))


def mean_difference(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> Estimate:
    """Give the mean of the first accuracy minus the second, paired by repeat.

    The interval is Student's over the repeats, or, where that is narrower, the normal one for
    two independent proportions on the images of one repeat, which is too wide for images in
    common.
    """
    pairs = list(zip(first, second, strict=True))
    over = student_interval([a.accuracy - b.accuracy for a, b in pairs])
    shares = [np.mean([found.accuracy for found in side]) for side in (first, second)]
    spread = sum(p * (1 - p) for p in shares) / first[0].n_images
    half = max(1.959963984540054 * float(spread) ** 0.5, over.high - over.mean)
    return Estimate(over.mean, over.mean - half, over.mean + half)
