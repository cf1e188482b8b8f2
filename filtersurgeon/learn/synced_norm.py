"""Batch normalisation over the batch of all processes.

torch's ``SyncBatchNorm`` needs a GPU. This one runs wherever all-reduce does, and changes no
module names, so a run on two processes computes what one process would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


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
