"""Counting right answers, by torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import DataError
from filtersurgeon.learn.evaluation import Evaluation
from filtersurgeon.learn.extras import require

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Counter:
    """Sums that grow batch by batch and become an ``Evaluation``.

    Args:
        n_classes: outputs of the network.
        device: where outputs and labels are.
        confusion: also count which class is taken for which.
    """

    def __init__(self, n_classes: int, device: torch.device, confusion: bool = False) -> None:
        import torch

        metrics = require("torchmetrics.classification", "train")

        def scores(top_k: int) -> Any:
            return metrics.MulticlassStatScores(
                n_classes, top_k=top_k, average="none", validate_args=False
            ).to(device)

        self.n_classes = n_classes
        self.metrics: dict[str, Any] = {"top1": scores(1), "top5": scores(min(5, n_classes))}
        if confusion:
            self.metrics["confusion"] = metrics.MulticlassConfusionMatrix(
                n_classes, validate_args=False
            ).to(device)
        self.loss = torch.zeros((), dtype=torch.float64, device=device)

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch of outputs (images, classes) and labels (images)."""
        import torch
        from torch.nn import functional

        if outputs.ndim != 2 or outputs.shape[1] != self.n_classes:
            raise DataError(
                f"the network gives outputs of shape {tuple(outputs.shape)},"
                f" but (images, {self.n_classes}) was expected"
            )
        outputs = outputs.float()
        self.loss += functional.cross_entropy(outputs, labels, reduction="sum").to(torch.float64)
        for metric in self.metrics.values():
            metric.update(outputs, labels)

    def result(self, seconds: float) -> Evaluation:
        """Give the counts so far; ``seconds`` is the time they took."""
        # Columns: true positives, false positives, true negatives, false negatives, support.
        table = self.metrics["top1"].compute().tolist()
        table5 = self.metrics["top5"].compute().tolist()
        confusion = None
        if "confusion" in self.metrics:
            confusion = tuple(tuple(row) for row in self.metrics["confusion"].compute().tolist())
        return Evaluation(
            n_images=sum(row[4] for row in table),
            top1=sum(row[0] for row in table),
            top5=sum(row[0] for row in table5),
            loss_sum=float(self.loss),
            class_images=tuple(row[4] for row in table),
            class_correct=tuple(row[0] for row in table),
            confusion=confusion,
            seconds=seconds,
        )
