"""The moving parts of a training run, from timm."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import OptionError, TrainingError, near_misses
from filtersurgeon.learn.settings import TrainingRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def make_optimizer(model: nn.Module, recipe: TrainingRecipe) -> Optimizer:
    """Make timm's optimiser over the parameters that may change.

    Raises:
        OptionError: timm has no optimiser of that name, or it refuses a value.
        TrainingError: every parameter is frozen.
    """
    from timm.optim import create_optimizer_v2, list_optimizers

    known = list_optimizers()
    if recipe.optimizer.lower() not in known:
        hint = near_misses(recipe.optimizer, known)
        raise OptionError(f"optimizer {recipe.optimizer!r} is unknown{hint}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingError("there is nothing to train: every parameter is frozen")
    try:
        return create_optimizer_v2(
            model,
            recipe.optimizer,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
        )
    except ValueError as problem:
        raise OptionError(f"optimizer {recipe.optimizer!r}: {problem}") from problem


def make_schedule(optimizer: Optimizer, recipe: TrainingRecipe, epochs: int, updates: int) -> Any:
    """Make timm's learning-rate schedule.

    Args:
        optimizer: whose learning rates change.
        recipe: names the schedule.
        epochs: length of the run.
        updates: of the weights, per epoch.

    Returns:
        A timm scheduler driven by ``step_update(updates so far)``, or None.
    """
    from timm.scheduler import create_scheduler_v2

    if recipe.schedule == "none":
        return None
    schedule, _ = create_scheduler_v2(
        optimizer,
        sched=recipe.schedule,
        num_epochs=epochs,
        decay_epochs=max(1, epochs // (recipe.decays + 1)),
        warmup_epochs=recipe.warmup_epochs,
        warmup_lr=min(1e-6, recipe.lr),
        min_lr=recipe.min_lr,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )
    return schedule


def make_mixing(recipe: TrainingRecipe, n_classes: int) -> Any:
    """Make timm's mixup and CutMix of (images, labels), or None if both are off."""
    from timm.data import Mixup

    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        label_smoothing=recipe.label_smoothing,
        num_classes=n_classes,
    )


def make_loss(recipe: TrainingRecipe) -> Callable[[Tensor, Tensor], Tensor]:
    """Choose the loss of (outputs, labels): cross-entropy, smoothed, or for mixed labels."""
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from torch.nn import CrossEntropyLoss

    if recipe.mixup or recipe.cutmix:
        return SoftTargetCrossEntropy()
    if recipe.label_smoothing:
        return LabelSmoothingCrossEntropy(recipe.label_smoothing)
    return CrossEntropyLoss()


def make_average(model: nn.Module, recipe: TrainingRecipe) -> Any:
    """Make timm's moving average of the weights, or None if it is off.

    Its decay grows to the recipe's during the first updates, or a short run would end near
    where it began.
    """
    from timm.utils import ModelEmaV3

    if not recipe.ema_decay:
        return None
    return ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)
