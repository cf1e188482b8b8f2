"""What an evaluation on images with several labels found: ROC AUC and average precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import nan, sqrt
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.checkpoint.vision import require
from filtersurgeon.data.kinds import MULTILABEL
from filtersurgeon.errors import DataError
from filtersurgeon.learn.evaluation import finite, mean_known
from filtersurgeon.learn.losses import masked_cross_entropy
from filtersurgeon.learn.scores import check_scores

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = "filtersurgeon.multilabel-evaluation/1"
_PART = "filtersurgeon.multilabel-evaluation-part/1"
_GROWTH = 1.1
_HALVINGS = 50
"""Of the range of an area, beyond the digits of a number."""


@dataclass(frozen=True, eq=False)
class MultiLabelEvaluation(Tabular):
    """Scores and labels of a set of images; the sum of two is the evaluation of both sets together.

    Attributes:
        scores: (images, classes) float32, logits.
        labels: (images, classes) float32: 1, 0, or NaN where unknown.
        names: of the classes; empty if they have none.
        loss_sum: summed binary cross-entropy of the known labels, in nats.
        seconds: time spent, summed over parts that ran side by side.
    """

    scores: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    loss_sum: float
    seconds: float

    score_name: ClassVar[str] = "mean ROC AUC"

    def __repr__(self) -> str:
        return summarise(
            self,
            images=self.n_images,
            classes=self.labels.shape[1],
            mean_auc=round(self.mean_auc, 4),
            mean_precision=round(self.mean_precision, 4),
            loss=round(self.loss, 4),
        )

    @property
    def n_images(self) -> int:
        """Images evaluated."""
        return len(self.labels)

    @property
    def known(self) -> tuple[int, ...]:
        """How many labels of each class are known."""
        return tuple((~np.isnan(self.labels)).sum(0).tolist())

    @property
    def positive(self) -> tuple[int, ...]:
        """How many labels of each class are 1."""
        return tuple((self.labels == 1).sum(0).tolist())

    @cached_property
    def auc(self) -> tuple[float | None, ...]:
        """The area under the ROC curve of each class; None where all known labels are the same."""
        return self._measured("binary_auroc")

    @cached_property
    def precision(self) -> tuple[float | None, ...]:
        """The average precision of each class; None where all known labels are the same."""
        return self._measured("binary_average_precision")

    @property
    def mean_auc(self) -> float:
        """Mean area under the ROC curve over the classes that have one; NaN where none has."""
        return mean_known(self.auc)

    @property
    def mean_precision(self) -> float:
        """Mean average precision over the classes that have one; NaN where none has."""
        return mean_known(self.precision)

    def figures(self) -> dict[str, str]:
        """Give what tables show of it, by the heads of their columns."""
        return {
            "mean ROC AUC %": f"{100 * self.mean_auc:.2f}",
            "mean average precision %": f"{100 * self.mean_precision:.2f}",
            "loss": f"{self.loss:.4f}",
        }

    @property
    def score(self) -> float:
        """What networks are compared by, greater being better: the mean area under the curve."""
        return self.mean_auc

    @property
    def loss(self) -> float:
        """Mean binary cross-entropy of the known labels, in nats."""
        return self.loss_sum / max(1, sum(self.known))

    @property
    def images_per_second(self) -> float:
        """Speed, reading and preprocessing included."""
        return self.n_images / self.seconds if self.seconds > 0 else float("inf")

    def intervals(self) -> tuple[tuple[float, float] | None, ...]:
        """Give the 95 % interval of the area under the curve of each class.

        Source: Hanley and McNeil, Radiology 143 (1982) 29-36.
        """
        return tuple(
            None if area is None else auc_interval(area, ones, count - ones)
            for area, ones, count in zip(self.auc, self.positive, self.known, strict=True)
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each class."""
        for number, (known, positive, area, precision, between) in enumerate(
            zip(self.known, self.positive, self.auc, self.precision, self.intervals(), strict=True)
        ):
            low, high = between or (None, None)
            yield {
                "class": self.names[number] if self.names else number,
                "known": known,
                "positive": positive,
                "ROC AUC": area,
                "low": low,
                "high": high,
                "average precision": precision,
            }

    def __add__(self, other: MultiLabelEvaluation) -> MultiLabelEvaluation:
        """Join the evaluations of two disjoint sets of images."""
        if self.labels.shape[1] != other.labels.shape[1]:
            raise DataError(
                f"evaluations of {self.labels.shape[1]} and {other.labels.shape[1]} classes"
                " cannot be added"
            )
        return MultiLabelEvaluation(
            np.concatenate([self.scores, other.scores]),
            np.concatenate([self.labels, other.labels]),
            self.names,
            self.loss_sum + other.loss_sum,
            self.seconds + other.seconds,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON form, without the scores; null stands for a number that is not there."""
        return {
            "schema": SCHEMA,
            "n_images": self.n_images,
            "names": list(self.names),
            "known": list(self.known),
            "positive": list(self.positive),
            "roc_auc": list(self.auc),
            "interval95": [None if each is None else list(each) for each in self.intervals()],
            "average_precision": list(self.precision),
            "mean_roc_auc": finite(self.mean_auc),
            "mean_average_precision": finite(self.mean_precision),
            "loss": finite(self.loss),
            "seconds": self.seconds,
            "images_per_second": finite(self.images_per_second),
        }

    def to_part(self) -> dict[str, Any]:
        """Give all that :meth:`from_part` needs, as a JSON document."""
        return {
            "schema": _PART,
            "scores": self.scores.tolist(),
            "labels": [[None if x != x else x for x in row] for row in self.labels.tolist()],
            "names": list(self.names),
            "loss_sum": finite(self.loss_sum),
            "seconds": self.seconds,
        }

    @classmethod
    def from_part(cls, found: Mapping[str, Any]) -> MultiLabelEvaluation:
        """Read what :meth:`to_part` gave."""
        labels = [[nan if x is None else x for x in row] for row in found["labels"]]
        return cls(
            np.array(found["scores"], np.float32),
            np.array(labels, np.float32),
            tuple(found["names"]),
            nan if found["loss_sum"] is None else found["loss_sum"],
            found["seconds"],
        )

    @staticmethod
    def is_part(found: Mapping[str, Any]) -> bool:
        """Tell whether a document is of :meth:`to_part`."""
        return found.get("schema") == _PART

    def _measured(self, metric: str) -> tuple[float | None, ...]:
        """Compute a metric of torchmetrics for each class, on its known labels."""
        import torch

        function = getattr(require("torchmetrics.functional.classification", "train"), metric)
        found: list[float | None] = []
        for scores, labels in zip(self.scores.T, self.labels.T, strict=True):
            known = ~np.isnan(labels)
            if len(np.unique(labels[known])) < 2 or not np.isfinite(scores[known]).all():
                found.append(None)
                continue
            given = torch.from_numpy(scores[known]), torch.from_numpy(labels[known]).long()
            # Ranks alone count; torchmetrics would take a sigmoid, which rounds large scores to 1.
            ranks = given[0].unique(return_inverse=True)[1].double()
            found.append(float(function(ranks / max(1.0, float(ranks.max())), given[1])))
        return tuple(found)


def auc_interval(
    area: float, positive: int, negative: int, z: float = 1.959963984540054
) -> tuple[float, float]:
    """Give the interval of an area under the ROC curve by its standard error.

    At 0 and 1, where the formula gives no error, it reaches to the area whose own standard error
    allows the one that was found, as Wilson's interval does.

    Args:
        area: the area, 0..1.
        positive: images with label 1.
        negative: images with label 0.
        z: half-width in standard errors; by default that of 95 %.

    Source:
        Hanley and McNeil, Radiology 143 (1982) 29-36.

    Examples:
        >>> low, high = auc_interval(0.9, 50, 50)
        >>> round(low, 3), round(high, 3)
        (0.837, 0.963)
    """
    if 0 < area < 1:
        half = z * _standard_error(area, positive, negative)
        return max(0.0, area - half), min(1.0, area + half)
    near, far = 0.0, 1.0
    for _ in range(_HALVINGS):
        way = (near + far) / 2
        if way < z * _standard_error(abs(area - way), positive, negative):
            near = way
        else:
            far = way
    return (0.0, far) if area == 0 else (1 - far, 1.0)


def _standard_error(area: float, positive: int, negative: int) -> float:
    two_positive, two_negative = area / (2 - area), 2 * area**2 / (1 + area)
    variance = (
        area * (1 - area)
        + (positive - 1) * (two_positive - area**2)
        + (negative - 1) * (two_negative - area**2)
    ) / (positive * negative)
    return sqrt(max(0.0, variance))


class MultiLabelCounter:
    """Scores and labels that grow batch by batch and become a ``MultiLabelEvaluation``.

    Args:
        n_classes: outputs of the network.
        names: of the classes; empty if they have none.
    """

    def __init__(self, n_classes: int, names: Sequence[str] = ()) -> None:
        self.n_classes, self.names = n_classes, tuple(names)
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._loss = 0.0
        self._told = 0, ""

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add a batch of scores and labels, each (images, classes)."""
        check_scores(scores, labels, MULTILABEL)
        known = int((~labels.isnan()).sum())
        self._loss += float(masked_cross_entropy(scores, labels)) * known
        self._scores.append(scores.detach().float().cpu().numpy())
        self._labels.append(labels.cpu().numpy())

    def running_metric(self) -> str:
        """Say the mean area under the curve so far; nothing where no class has one.

        The area is that of all scores, so it is computed anew only once a tenth of the images is
        new.
        """
        images = sum(map(len, self._labels))
        if images >= _GROWTH * self._told[0]:
            area = self.result(0.0).mean_auc
            text = f"{MultiLabelEvaluation.score_name} {100 * area:.2f} %" if area == area else ""
            self._told = images, text
        return self._told[1]

    def result(self, seconds: float) -> MultiLabelEvaluation:
        """Give what was found so far; ``seconds`` is the time it took."""
        return MultiLabelEvaluation(
            np.concatenate(self._scores), np.concatenate(self._labels), self.names, self._loss,
            seconds,
        )  # fmt: skip
