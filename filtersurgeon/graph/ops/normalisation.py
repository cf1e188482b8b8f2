"""Normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from filtersurgeon.graph.labels import Axis, Labels, Step
from filtersurgeon.graph.ops import operator
from filtersurgeon.graph.shapes import Made, like

_OVER = "normalised over, so that fewer channels change the others"


def _rest(step: Step, labels: Labels, channels: Axis = None) -> list[Labels]:
    """Give labels to the result, and to the statistics, one of each channel or none at all."""
    each = 0 if channels is None else len(channels)
    rest = [tensor.shape for tensor in step.results[1:]]
    return [labels, *((channels,) if shape == (each,) else (None,) * len(shape) for shape in rest)]


def _has_silent_scale(step: Step, _made: Sequence[Labels]) -> bool:
    """Tell of a normalisation with scale and shift per channel: as silent as these."""
    weight = step.args[1]
    return step.silent(step.args[0] if weight is None else weight)


def _run_by_channel(func: Any, args: Any, kwargs: Any) -> Any:
    """Give the shift of a channel whose scale is zero: zero times anything finite is zero."""
    results = func(*args, **kwargs)
    weight, bias = args[1], args[2]
    if weight is not None:
        result = (results if isinstance(results, Tensor) else results[0]).movedim(1, -1)
        _set_unscaled(result, weight, bias)
    return results


def _run_over_last(func: Any, args: Any, kwargs: Any) -> Any:
    """Do so where scale and shift have the last axes of the tensor."""
    results = func(*args, **kwargs)
    weight = args[2] if len(args) > 2 else None
    if weight is not None:
        shift = args[3] if len(args) > 3 and isinstance(args[3], Tensor) else None
        _set_unscaled(results if isinstance(results, Tensor) else results[0], weight, shift)
    return results


def _set_unscaled(result: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Write the shift wherever the scale is zero; both have the last axes of the result."""
    unscaled = weight == 0
    if unscaled.any():
        shift = torch.zeros_like(weight) if bias is None else bias
        result.copy_(torch.where(unscaled, shift.to(result.dtype), result))


def _shape_of_batch_norm(
    tensor: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Made | None:
    if training or running_mean is None or tensor.ndim < 2 or not tensor.is_meta:
        return None
    held = (weight, bias, running_mean, running_var)
    if any(own is not None and own.shape[0] != tensor.shape[1] for own in held):
        raise RuntimeError("the channels do not fit the statistics")
    args = (tensor, *held, training, momentum, eps)
    return torch.ops.aten.native_batch_norm.default, args, [like(tensor, tensor.shape)]


@operator(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "_batch_norm_no_update",
    equivariant=True,
    zero_preserving=_has_silent_scale,
    shapes={functional.batch_norm: _shape_of_batch_norm},
    run_with_nan=_run_by_channel,
)
def batch_norm(step: Step) -> list[Labels]:
    """Tie scale, shift, mean and variance to the channels."""
    tensor = step.args[0]
    labels = step.labels(tensor)
    channels = labels[1]
    for arg in step.args[1:5]:
        if hasattr(arg, "shape") and tensor.shape[1] > 1:
            channels = step.tie(channels, step.labels(arg)[0])
    if step.arg(5, "training", False) is True and "no_training" not in step.operator:
        for axis in (labels[0], *labels[2:]):
            step.pin(axis, _OVER)
    return _rest(step, (labels[0], channels, *labels[2:]), channels)


def _shape_of_layer_norm(
    tensor: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Made | None:
    """Give the shapes of a layer normalisation, without the statistics that no one reads."""
    if not tensor.is_meta:
        return None
    over = tuple(normalized_shape)
    held = [tuple(own.shape) for own in (weight, bias) if own is not None]
    if any(shape != over for shape in (tuple(tensor.shape[-len(over) :]), *held)):
        raise RuntimeError("the channels do not fit the scale")
    args = (tensor, list(over), weight, bias, eps)
    return torch.ops.aten.native_layer_norm.default, args, [like(tensor, tensor.shape)]


@operator(
    "native_layer_norm",
    "_fused_rms_norm",
    equivariant=True,
    shapes={functional.layer_norm: _shape_of_layer_norm},
    run_with_nan=_run_over_last,
)
def layer_norm(step: Step) -> list[Labels]:
    """Normalise over the last axes, whose channels can then not be removed."""
    labels = list(step.labels(step.args[0]))
    count = len(step.args[1])
    for axis in range(-count, 0):
        step.reduce(labels[axis])
        step.pin(labels[axis], _OVER)
        for arg in step.args[2:4]:
            if hasattr(arg, "shape") and arg.shape[axis] > 1:
                labels[axis] = step.tie(labels[axis], step.labels(arg)[axis])
    return _rest(step, tuple(labels))


@operator("native_group_norm", zero_preserving=_has_silent_scale, run_with_nan=_run_by_channel)
def group_norm(step: Step) -> list[Labels]:
    """Remove whole groups: a group's statistics are its own."""
    tensor, weight, bias = step.args[:3]
    groups = step.arg(6, "group")
    labels = step.labels(tensor)
    channels = labels[1]
    for arg in (weight, bias):
        if arg is not None:
            channels = step.tie(channels, step.labels(arg)[0])
    first = None
    if channels is not None:
        if groups == 1:
            step.pin(channels, _OVER)
        reason = step.reason("channels of one group")
        first = step.constraints.tie_rows(channels.reshape(groups, -1).T, reason)
        step.named["num_groups"] = first
    statistics = (labels[0], None if groups == 1 else first)
    return [(labels[0], channels, *labels[2:]), statistics, statistics]
