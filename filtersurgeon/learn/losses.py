"""Losses for each kind of labels; what is unknown or does not count plays no part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from filtersurgeon.data.kinds import CLASSES, IGNORED, MASKS, MULTILABEL
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.scores import check_scores
from filtersurgeon.learn.settings import TrainingRecipe

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-6


def masked_cross_entropy(scores: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the binary cross-entropy of several labels, in the mean over the known ones.

    Args:
        scores: (images, classes), logits.
        labels: (images, classes): 1, 0, or NaN where unknown.
        smoothing: mass moved from a label to its opposite, half of it.

    Returns:
        The loss in nats, a scalar; 0 where no label is known.

    Examples:
        >>> import torch
        >>> labels = torch.tensor([[1.0, float("nan")]])
        >>> round(masked_cross_entropy(torch.zeros(1, 2), labels).item(), 4)
        0.6931
    """
    from torch.nn import functional

    known = ~labels.isnan()
    wanted = labels.nan_to_num() * (1 - smoothing) + smoothing / 2
    each = functional.binary_cross_entropy_with_logits(
        scores.float(), wanted.float(), reduction="none"
    )
    return each.where(known, 0.0).sum() / known.sum().clamp(min=1)


def pixel_cross_entropy(scores: Tensor, masks: Tensor, smoothing: float = 0.0) -> Tensor:
    """Compute the cross-entropy of masks, in the mean over the pixels that count.

    Args:
        scores: (images, classes, height, width), logits; one class alone separates 1 from 0.
        masks: (images, height, width) of classes, -100 where a pixel does not count.
        smoothing: mass taken from the true class.

    Returns:
        The loss in nats, a scalar; 0 where no pixel counts.

    Examples:
        >>> import torch
        >>> masks = torch.tensor([[[1, -100]]])
        >>> round(pixel_cross_entropy(torch.zeros(1, 1, 1, 2), masks).item(), 4)
        0.6931
    """
    from torch.nn import functional

    if scores.shape[1] == 1:
        labels = masks.float().masked_fill(masks == IGNORED, float("nan"))
        return masked_cross_entropy(scores[:, 0], labels, smoothing)
    total = functional.cross_entropy(
        scores.float(), masks, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
    )
    return total / (masks != IGNORED).sum().clamp(min=1)


def dice_loss(scores: Tensor, masks: Tensor) -> Tensor:
    """Compute one minus the Dice coefficient of probabilities, in the mean over the classes.

    Over all pixels of the batch that count, of each class but the first (the background) that
    occurs in it.
    Source: Milletari et al., *V-Net*, 2016, section 3, with the denominator of Sudre et al., 2017.

    Args:
        scores: (images, classes, height, width), logits; one class alone separates 1 from 0.
        masks: (images, height, width) of classes, -100 where a pixel does not count.

    Returns:
        A scalar in 0..1; 0 where no class but the first occurs.

    Examples:
        >>> import torch
        >>> masks = torch.tensor([[[0, 1]]])
        >>> round(dice_loss(torch.tensor([[[[-20.0, 20.0]]]]), masks).item(), 4)
        0.0
    """
    import torch
    from torch.nn import functional

    counted = masks != IGNORED
    if scores.shape[1] == 1:
        shares = scores.float().sigmoid()
        wanted = (masks == 1)[:, None].float()
    else:
        shares = scores.float().softmax(1)[:, 1:]
        classes = masks.clamp(min=0)
        wanted = functional.one_hot(classes, scores.shape[1]).movedim(-1, 1)[:, 1:].float()
    shares, wanted = shares * counted[:, None], wanted * counted[:, None]
    axes = (0, 2, 3)
    total = wanted.sum(axes)
    dice = 2 * (shares * wanted).sum(axes) / (shares.sum(axes) + total).clamp(min=_TINY)
    there = total > 0
    return torch.where(there, 1 - dice, 0.0).sum() / there.sum().clamp(min=1)


def make_loss(recipe: TrainingRecipe, kind: str = CLASSES) -> Callable[[Tensor, Tensor], Tensor]:
    """Choose the loss of (scores, labels) for a kind of labels.

    One class: cross-entropy, smoothed, or for mixed labels. Several labels: binary cross-entropy.
    Masks: cross-entropy of the pixels, and ``dice_weight`` times the Dice loss.

    Raises:
        OptionError: images are to be mixed, and have no single class.
    """
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from torch.nn import CrossEntropyLoss

    mixed = bool(recipe.mixup or recipe.cutmix)
    if kind != CLASSES:
        if mixed:
            raise OptionError("mixup and cutmix mix images of one class each; leave them out")
        return _checked(kind, recipe.label_smoothing, recipe.dice_weight)
    if mixed:
        return SoftTargetCrossEntropy()
    if recipe.label_smoothing:
        return LabelSmoothingCrossEntropy(recipe.label_smoothing)
    return CrossEntropyLoss()


def _checked(kind: str, smoothing: float, dice_weight: float) -> Callable[[Tensor, Tensor], Tensor]:
    def several(scores: Tensor, labels: Tensor) -> Tensor:
        check_scores(scores, labels, MULTILABEL)
        return masked_cross_entropy(scores, labels, smoothing)

    def pixels(scores: Tensor, masks: Tensor) -> Tensor:
        check_scores(scores, masks, MASKS)
        loss = pixel_cross_entropy(scores, masks, smoothing)
        return loss + dice_weight * dice_loss(scores, masks) if dice_weight else loss

    return pixels if kind == MASKS else several
