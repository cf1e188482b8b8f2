"""The evaluation that goes with each kind of labels, as one type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from filtersurgeon.data.kinds import MASKS, MULTILABEL
from filtersurgeon.errors import DataError
from filtersurgeon.learn.evaluation import Counter, Evaluation
from filtersurgeon.learn.segmentation import MaskCounter, MaskEvaluation
from filtersurgeon.learn.several_labels import MultiLabelCounter, MultiLabelEvaluation

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Outcome: TypeAlias = Evaluation | MultiLabelEvaluation | MaskEvaluation
"""What an evaluation found: each has ``n_images``, ``score``, ``score_name`` and ``loss``."""


class LabelCounter(Protocol):
    """What counts batch by batch, for any kind of labels."""

    def update(self, scores: Tensor, labels: Tensor, /) -> None:
        """Add a batch of scores and labels."""

    def running_metric(self) -> str:
        """Say how good the scores are so far, such as ``top-1 93.39 %``; nothing if unknown."""

    def result(self, seconds: float) -> Any:
        """Give the evaluation of what was added; ``seconds`` is the time it took."""


def make_counter(
    kind: str,
    n_classes: int,
    device: torch.device,
    names: Sequence[str] = (),
    confusion: bool = False,
) -> LabelCounter:
    """Make what counts batch by batch, for a kind of labels.

    Args:
        kind: of the labels.
        n_classes: outputs of the network.
        device: where scores and labels are.
        names: of the classes; empty if they have none.
        confusion: of classes, also count which class is taken for which.
    """
    if kind == MULTILABEL:
        return MultiLabelCounter(n_classes, names)
    if kind == MASKS:
        return MaskCounter(n_classes, device)
    return Counter(n_classes, device, confusion)


def as_part(found: Outcome) -> dict[str, Any]:
    """Give an evaluation as a JSON document that :func:`read_part` reads."""
    return found.to_dict(per_class=True) if isinstance(found, Evaluation) else found.to_part()


def read_part(found: Mapping[str, Any]) -> Any:
    """Read an evaluation from its JSON document.

    Raises:
        DataError: another kind or version of document.
    """
    for kind in (MultiLabelEvaluation, MaskEvaluation):
        if kind.is_part(found):
            return kind.from_part(found)
    return Evaluation.from_dict(found)


def merge_parts(parts: Iterable[Mapping[str, Any]]) -> Any:
    """Add the evaluations of disjoint parts of a data set, given as JSON documents.

    Raises:
        DataError: there are no parts.
    """
    found = [read_part(part) for part in parts]
    if not found:
        raise DataError("there is nothing to merge: no part was evaluated")
    return reduce(add, found)
