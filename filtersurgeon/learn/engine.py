"""What a training run is made of: optimiser, schedule, mixing, and several processes.

torch's ``SyncBatchNorm`` needs a GPU. The one here runs wherever all-reduce does, and changes no
module names, so a run on two processes computes what one process would.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import OptionError, TrainingError, near_misses
from filtersurgeon.learn.settings import TrainingRecipe

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


def is_first_process() -> bool:
    """Tell whether this process is the one that writes files and messages."""
    return os.environ.get("RANK", "0") == "0"


def count_processes() -> int:
    """Count the processes of this run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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


def make_average(model: nn.Module, recipe: TrainingRecipe) -> Any:
    """Make timm's moving average of the weights, or None if it is off.

    Its decay grows to the recipe's during the first updates, or a short run would end near
    where it began.
    """
    from timm.utils import ModelEmaV3

    if not recipe.ema_decay:
        return None
    return ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True)


@contextmanager
def synced_norms(model: nn.Module, world: int) -> Iterator[None]:
    """Share the statistics of batch-norm layers among processes inside the block.

    torch's own layers and timm's ``BatchNormAct2d`` are shared; other subclasses keep their own
    arithmetic, with statistics of each process.

    Args:
        model: changed in place and put back afterwards.
        world: number of processes; nothing happens with one.
    """
    changed = []
    for module in model.modules() if world > 1 else ():
        shared = _find_shared_class(type(module))
        if shared is not None:
            changed.append((module, type(module)))
            module.__class__ = shared
    try:
        yield
    finally:
        for module, original in changed:
            module.__class__ = original


def _find_shared_class(cls: type) -> type | None:
    """Give the class of a layer with shared statistics, or None for another layer."""
    from torch import nn

    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    from timm.layers import BatchNormAct2d

    if cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        return type(f"Synced{cls.__name__}", (cls,), {"forward": _normalise})
    if cls is BatchNormAct2d:
        return type(f"Synced{cls.__name__}", (cls,), {"forward": _normalise_and_activate})
    return None


def _normalise_and_activate(norm: Any, x: Tensor) -> Tensor:
    return norm.act(norm.drop(_normalise(norm, x)))


def _normalise(norm: Any, x: Tensor) -> Tensor:
    """Normalise (images, channels, ...) by the statistics of all processes."""
    import torch
    from torch.nn import functional

    if not norm.training:
        return functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias, False, 0.0, norm.eps
        )
    world = torch.distributed.get_world_size()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(x.ndim)]
    count = world * x.numel() // x.shape[1]
    add = _all_reduce()
    mean = add(x.sum(axes)) / count
    centred = x - mean.view(shape)
    variance = add((centred * centred).sum(axes)) / count
    if norm.track_running_stats:
        _track(norm, mean.detach(), variance.detach() * count / max(count - 1, 1))
    out = centred * torch.rsqrt(variance + norm.eps).view(shape)
    return out if norm.weight is None else out * norm.weight.view(shape) + norm.bias.view(shape)


def _track(norm: Any, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics as torch does."""
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_(variance, momentum)


def _all_reduce() -> Callable[[Tensor], Tensor]:
    """Give a sum over processes whose gradient is again such a sum."""
    import torch

    class Sum(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
            total = x.clone()
            torch.distributed.all_reduce(total)
            return total

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:  # noqa: ARG004
            total = gradients[0].clone()
            torch.distributed.all_reduce(total)
            return total

    return Sum.apply
