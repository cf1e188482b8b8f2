"""Normalisations."""

from __future__ import annotations

from filtersurgeon.graph.labels import Axis, Labels, Step
from filtersurgeon.graph.ops import rule

_OVER = "normalised over, so that fewer channels change the others"


def _rest(step: Step, labels: Labels, channels: Axis = None) -> list[Labels]:
    """Give labels to the result, and to the statistics, one of each channel or none at all."""
    each = 0 if channels is None else len(channels)
    rest = [tensor.shape for tensor in step.results[1:]]
    return [labels, *((channels,) if shape == (each,) else (None,) * len(shape) for shape in rest)]


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "_batch_norm_no_update",
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


@rule("native_layer_norm", "_fused_rms_norm", "_fused_rms_norm_backward")
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


@rule("native_group_norm")
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
