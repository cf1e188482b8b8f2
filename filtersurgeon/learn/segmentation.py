"""What an evaluation on masks found: counts of pixels, Dice and IoU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import isfinite, nan
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.checkpoint.vision import require
from filtersurgeon.data.kinds import IGNORED, MASKS
from filtersurgeon.errors import DataError
from filtersurgeon.learn.evaluation import finite, mean_known, student_interval
from filtersurgeon.learn.losses import pixel_cross_entropy
from filtersurgeon.learn.scores import check_scores

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SCHEMA = "filtersurgeon.mask-evaluation/1"


@dataclass(frozen=True)
class MaskEvaluation(Tabular):
    """Counts of pixels; the sum of two is the evaluation of both sets of images together.

    The first class is the background: it has its own figures and plays no part in means.

    Attributes:
        confusion: pixels, rows true and columns predicted classes.
        image_dice: the Dice coefficient of each image, in the mean over the classes that it shows
            or is given; images without any are left out.
        n_images: images evaluated.
        loss_sum: summed cross-entropy of the pixels that count, in nats.
        seconds: time spent, summed over parts that ran side by side.
    """

    confusion: tuple[tuple[int, ...], ...]
    image_dice: tuple[float, ...]
    n_images: int
    loss_sum: float
    seconds: float

    score_name: ClassVar[str] = "mean Dice"

    def __repr__(self) -> str:
        return summarise(
            self,
            images=self.n_images,
            classes=len(self.confusion),
            mean_dice=round(self.mean_dice, 4),
            mean_iou=round(self.mean_iou, 4),
            loss=round(self.loss, 4),
        )

    @property
    def pixels(self) -> tuple[int, ...]:
        """How many pixels are of each class."""
        return tuple(map(sum, self.confusion))

    @property
    def dice(self) -> tuple[float | None, ...]:
        """The Dice coefficient of each class over all pixels; None where it does not occur."""
        return _coefficients(np.array(self.confusion), 2)

    @property
    def iou(self) -> tuple[float | None, ...]:
        """Intersection over union of each class over all pixels; None where it does not occur."""
        return _coefficients(np.array(self.confusion), 1)

    @property
    def mean_dice(self) -> float:
        """Mean Dice coefficient over the classes but the background; NaN where none occurs."""
        return mean_known(self.dice[1:])

    @property
    def mean_iou(self) -> float:
        """Mean IoU over the classes but the background; NaN where none occurs."""
        return mean_known(self.iou[1:])

    def figures(self) -> dict[str, str]:
        """Give what tables show of it, by the heads of their columns."""
        found = self.interval()
        between = (
            "" if found is None else "{:.2f} ({:.2f} to {:.2f})".format(*(100 * x for x in found))
        )
        return {
            "mean Dice %": f"{100 * self.mean_dice:.2f}",
            "mean IoU %": f"{100 * self.mean_iou:.2f}",
            "Dice of an image, % (95 % interval)": between,
            "loss": f"{self.loss:.4f}",
        }

    @property
    def score(self) -> float:
        """What networks are compared by, greater being better: the mean Dice coefficient."""
        return self.mean_dice

    @property
    def accuracy(self) -> float:
        """Share of the pixels that get their class."""
        return float(np.trace(self.confusion)) / max(1, sum(self.pixels))

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the pixels that count, in nats."""
        return self.loss_sum / max(1, sum(self.pixels))

    @property
    def images_per_second(self) -> float:
        """Speed, reading and preprocessing included."""
        return self.n_images / self.seconds if self.seconds > 0 else float("inf")

    def interval(self) -> tuple[float, float, float] | None:
        """Give the mean Dice coefficient of an image, and Student's 95 % interval over the images.

        None where no image shows or is given a class but the background.
        """
        if not self.image_dice:
            return None
        found = student_interval(self.image_dice)
        return found.mean, max(0.0, found.low), min(1.0, found.high)

    def rows(self) -> Iterator[Row]:
        """Give a row for each class."""
        found = zip(self.pixels, self.dice, self.iou, strict=True)
        for number, (pixels, dice, iou) in enumerate(found):
            yield {"class": number, "pixels": pixels, "Dice": dice, "IoU": iou}

    def __add__(self, other: MaskEvaluation) -> MaskEvaluation:
        """Join the evaluations of two disjoint sets of images."""
        if len(self.confusion) != len(other.confusion):
            raise DataError(
                f"evaluations of {len(self.confusion)} and {len(other.confusion)} classes"
                " cannot be added"
            )
        total = np.array(self.confusion) + np.array(other.confusion)
        return MaskEvaluation(
            tuple(map(tuple, total.tolist())),
            self.image_dice + other.image_dice,
            self.n_images + other.n_images,
            self.loss_sum + other.loss_sum,
            self.seconds + other.seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON form; null stands for a number that is not there."""
        found = self.interval()
        return {
            "schema": SCHEMA,
            **asdict(self),
            "loss_sum": finite(self.loss_sum),
            "pixels": list(self.pixels),
            "dice": list(self.dice),
            "iou": list(self.iou),
            "mean_dice": finite(self.mean_dice),
            "mean_iou": finite(self.mean_iou),
            "mean_image_dice": None if found is None else found[0],
            "interval95": None if found is None else list(found[1:]),
            "accuracy": self.accuracy,
            "loss": finite(self.loss),
            "images_per_second": finite(self.images_per_second),
        }

    def to_part(self) -> dict[str, Any]:
        """Give all that :meth:`from_part` needs, as a JSON document."""
        return self.to_dict()

    @classmethod
    def from_part(cls, found: Mapping[str, Any]) -> MaskEvaluation:
        """Read what :meth:`to_part` gave."""
        return cls(
            tuple(map(tuple, found["confusion"])),
            tuple(found["image_dice"]),
            found["n_images"],
            nan if found["loss_sum"] is None else found["loss_sum"],
            found["seconds"],
        )

    @staticmethod
    def is_part(found: Mapping[str, Any]) -> bool:
        """Tell whether a document is of :meth:`to_part`."""
        return found.get("schema") == SCHEMA


class MaskCounter:
    """Counts that grow batch by batch and become a ``MaskEvaluation``.

    Args:
        n_classes: outputs of the network; one alone separates two classes.
        device: where scores and masks are.
    """

    def __init__(self, n_classes: int, device: torch.device) -> None:
        import torch

        self.n_classes, self.classes = n_classes, max(2, n_classes)
        self._total = torch.zeros(self.classes, self.classes, dtype=torch.int64, device=device)
        self._dice: list[float] = []
        self._images, self._loss = 0, 0.0

    def update(self, scores: Tensor, masks: Tensor) -> None:
        """Add a batch of scores (images, classes, height, width) and masks."""
        metrics = require("torchmetrics.functional.classification", "train")
        check_scores(scores, masks, MASKS, self.n_classes)
        known = int((masks != IGNORED).sum())
        self._loss += float(pixel_cross_entropy(scores, masks)) * known
        found = predicted_masks(scores)
        for one, mask in zip(found, masks, strict=True):
            table = metrics.multiclass_confusion_matrix(
                one, mask, self.classes, ignore_index=IGNORED, validate_args=False
            )
            self._total += table
            dice = mean_known(_coefficients(table.cpu().numpy(), 2)[1:])
            if isfinite(dice):
                self._dice.append(dice)
        self._images += len(masks)

    def running_metric(self) -> str:
        """Say the mean Dice coefficient so far; nothing where no class but the first occurs."""
        dice = mean_known(_coefficients(self._total.cpu().numpy(), 2)[1:])
        return f"{MaskEvaluation.score_name} {100 * dice:.2f} %" if isfinite(dice) else ""

    def result(self, seconds: float) -> MaskEvaluation:
        """Give the counts so far; ``seconds`` is the time they took."""
        table = tuple(map(tuple, self._total.tolist()))
        return MaskEvaluation(table, tuple(self._dice), self._images, self._loss, seconds)


def predicted_masks(scores: Tensor) -> Tensor:
    """Give the class of every pixel by its scores, (images, height, width)."""
    return (scores[:, 0] > 0).long() if scores.shape[1] == 1 else scores.argmax(1)


def _coefficients(table: np.ndarray, weight: int) -> tuple[float | None, ...]:
    """Give ``w TP / (w TP + FP + FN)`` of each class: Dice for a weight of 2, IoU for 1."""
    right = np.diag(table)
    other = table.sum(0) + table.sum(1) - 2 * right
    return tuple(
        float(weight * hits / (weight * hits + rest)) if hits + rest else None
        for hits, rest in zip(right.tolist(), other.tolist(), strict=True)
    )
