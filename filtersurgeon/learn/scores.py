"""The scores in a network's outputs that go with labels of a kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.kinds import CLASSES, MASKS, MULTILABEL
from filtersurgeon.errors import DataError
from filtersurgeon.networks.outputs import (
    LOG_SOFTMAX,
    SIGMOID,
    SOFTMAX,
    Endings,
    class_scores,
    find_scores,
    pixel_scores,
)

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-6


class ScoreReader:
    """Runs a network and gives its scores as logits.

    Networks for masks and several labels may end in a sigmoid or a softmax; the first run finds
    that out, and probabilities become logits again.

    Args:
        kind: of the labels; None where there are none, and the outputs tell.
    """

    def __init__(self, kind: str | None) -> None:
        self.kind = kind
        self._ending: str | None = "" if kind == CLASSES else None

    def __call__(self, run: Callable[[Any], Any], images: Any) -> Tensor:
        """Give the scores of images: (images, classes), for masks also with rows and columns.

        Raises:
            OutputError: it is not clear which output holds the scores, or it has another form.
            DataError: the network gives one class, and the images have several labels.
        """
        if self._ending is not None:
            return self.logits(run(images))
        with Endings() as endings:
            outputs = run(images)
        self._ending = endings.of(self._read(outputs))
        if self._ending in (SOFTMAX, LOG_SOFTMAX) and self.kind == MULTILABEL:
            raise DataError(
                "the network ends in a softmax, which gives each image one class, and the images "
                "have several labels; return the scores before it, or a sigmoid of them"
            )
        return self.logits(outputs)

    def logits(self, outputs: Any) -> Tensor:
        """Give the scores in what the network returned, once a run has found how it ends."""
        scores = self._read(outputs)
        if self._ending == SIGMOID:
            return scores.float().logit(_LEAST)
        return scores.float().clamp(min=_LEAST).log() if self._ending == SOFTMAX else scores

    def _read(self, outputs: Any) -> Tensor:
        if self.kind is not None:
            return pixel_scores(outputs) if self.kind == MASKS else class_scores(outputs)
        scores = find_scores(outputs)
        maps = scores is not None and scores.ndim > 2
        return pixel_scores(outputs) if maps else class_scores(outputs)


def check_scores(scores: Tensor, labels: Tensor, kind: str, n_classes: int | None = None) -> None:
    """Refuse scores that do not go with the labels.

    Args:
        scores: as :class:`ScoreReader` gives them.
        labels: of the same images.
        kind: of the labels.
        n_classes: how many are expected.

    Raises:
        DataError: another number of classes, or another size of the masks.
    """
    expected = labels.shape[1] if kind == MULTILABEL else n_classes
    if expected is not None and scores.shape[1] != expected:
        raise DataError(
            f"the network gives {scores.shape[1]} outputs, and {expected} are expected; "
            "choose an output with `output_name`"
        )
    if kind == MASKS and scores.shape[2:] != labels.shape[1:]:
        (rows, columns), (height, width) = scores.shape[2:], labels.shape[1:]
        raise DataError(
            f"the network gives outputs of {columns}x{rows} pixels, and the masks have "
            f"{width}x{height}; resize the outputs in its forward, or choose another with "
            "`output_name`"
        )
