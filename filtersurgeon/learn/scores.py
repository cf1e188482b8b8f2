"""The scores in a network's outputs that go with labels of a kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

        Scores of pixels are enlarged to the size of the images, see :func:`enlarge`.

        Raises:
            OutputError: it is not clear which output holds the scores, or it has another form.
            DataError: the network gives one class, and the images have several labels.
        """
        if self._ending is not None:
            return self.logits(run(images), images.shape[2:])
        with Endings() as endings:
            outputs = run(images)
        self._ending = endings.of(self._read(outputs))
        if self._ending in (SOFTMAX, LOG_SOFTMAX) and self.kind == MULTILABEL:
            raise DataError(
                "the network ends in a softmax, which gives each image one class, and the images "
                "have several labels; return the scores before it, or a sigmoid of them"
            )
        return self.logits(outputs, images.shape[2:])

    def logits(self, outputs: Any, size: Sequence[int]) -> Tensor:
        """Give the scores in what the network returned, once a run has found how it ends.

        Args:
            outputs: of the network.
            size: height and width of its images.
        """
        scores = self._read(outputs)
        if self._ending == SIGMOID:
            scores = scores.float().logit(_LEAST)
        elif self._ending == SOFTMAX:
            scores = scores.float().clamp(min=_LEAST).log()
        return enlarge(scores, size) if self.kind == MASKS else scores

    def _read(self, outputs: Any) -> Tensor:
        if self.kind is not None:
            return pixel_scores(outputs) if self.kind == MASKS else class_scores(outputs)
        scores = find_scores(outputs)
        maps = scores is not None and scores.ndim > 2
        return pixel_scores(outputs) if maps else class_scores(outputs)


def enlarge(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Enlarge scores of a smaller map to the size of the images, as torchvision's networks do.

    Bilinear, ``align_corners=False``. Only where a network reduces both sides by the same whole
    factor, rounded up or down, as strides and pooling do. A map of any other size may be a part of
    the image, so it is given back as it is.

    Args:
        scores: (images, classes, rows, columns).
        size: height and width of the images.

    Examples:
        >>> import torch
        >>> enlarge(torch.tensor([[[[0.0, 4.0]]]]), (2, 4))[0, 0, 0].tolist()
        [0.0, 1.0, 3.0, 4.0]
        >>> enlarge(torch.zeros(1, 1, 44, 44), (48, 48)).shape[2:]
        torch.Size([44, 44])
    """
    from torch.nn import functional

    wanted = tuple(map(int, size))
    small = tuple(scores.shape[2:])
    sides = list(zip(small, wanted, strict=True))
    factors = range(2, max(wanted) + 1)
    if not any(
        all(side in (whole // by, -(-whole // by)) for side, whole in sides) for by in factors
    ):
        return scores
    return functional.interpolate(scores.float(), wanted, mode="bilinear", align_corners=False)


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
            f"{width}x{height}, no whole multiple; resize the outputs in its forward, or use "
            "`output_name`"
        )
