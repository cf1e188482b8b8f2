"""Convolutions of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.graph.labels import (
    CONSTANT,
    INPUT,
    MET,
    UNIFORM,
    Axis,
    Ids,
    Labels,
    Reason,
    Step,
    gather,
)
from filtersurgeon.graph.ops import Sum, operator
from filtersurgeon.graph.ops.linear import multiply_with_nan
from filtersurgeon.graph.record import Record, Term
from filtersurgeon.graph.shapes import Made, like
from filtersurgeon.graph.zeros import has_silent_weight

_TRANSPOSED = "transposed"
"""Whether a convolution's weight is (in, out/groups, ...), in the answers of its record."""

_KERNEL = "positions of a kernel"
_SPACE = "used as positions by a convolution"


def _shape(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Made | None:
    if isinstance(padding, str) or image.ndim != 4 or weight.ndim != 4 or not image.is_meta:
        return None
    if image.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise RuntimeError("the channels do not fit the weight")
    steps, pads, gaps = _pair(stride), _pair(padding), _pair(dilation)
    space = [
        (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, gap in zip(
            image.shape[2:], weight.shape[2:], steps, pads, gaps, strict=True
        )
    ]
    if min(space) < 1:
        raise RuntimeError("the image is smaller than the kernel")
    args = (image, weight, bias, steps, pads, gaps, False, [0, 0], groups)
    shape = (image.shape[0], weight.shape[0], *space)
    return torch.ops.aten.convolution.default, args, [like(image, shape)]


def _pair(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _work(record: Record) -> list[Term]:
    image, weight, made = record.inputs[0], record.inputs[1], record.results[0]
    space = image if record.answers.get(_TRANSPOSED) else made
    places: Term = [(size, None) for size in space.shape[2:]]
    return [[*weight.lengths, (space.shape[0], None), *places]]


def _sum(record: Record) -> Sum:
    return Sum(weight=record.names[1])


def _run_with_nan(func: Any, args: Any, kwargs: Any) -> Tensor:
    def reach(image: Tensor, weight: Tensor) -> Tensor:
        found: Tensor = func(image, weight, None, *args[3:], **kwargs)
        return found

    return multiply_with_nan(func, args, kwargs, 0, reach)


def _has_silent_results(step: Step, _made: Sequence[Labels]) -> bool:
    image, weight, bias = step.args[:3]
    by_channel = step.arg(8, "groups", 1) == image.shape[1] == weight.shape[0] > 1
    if by_channel and step.silent(image) and (bias is None or step.silent(bias)):
        return True
    return has_silent_weight(step, step.labels(image)[:1])


@operator(
    "convolution",
    synonyms=("_convolution", "convolution_overrideable"),
    equivariant=True,
    zero_preserving=_has_silent_results,
    shapes={torch.conv2d: _shape},
    work=_work,
    sums=_sum,
    run_with_nan=_run_with_nan,
)
def convolution(step: Step) -> Labels:
    """Meet the input's channels with the weight's, and pass on the weight's outputs."""
    image, weight, bias = step.args[:3]
    transposed, groups = step.arg(6, "transposed", False), step.arg(8, "groups", 1)
    seen, held = step.labels(image), step.labels(weight)
    if transposed:
        step.answers[_TRANSPOSED] = True
    for axis in seen[2:]:
        step.pin(axis, _SPACE)
    for axis in held[2:]:
        # Every convolution has these, so that no line of code is looked for.
        step.constraints.pin(axis, Reason(step.operator, step.module, _KERNEL))
    incoming = seen[1]
    outer, inner = held[0], held[1]
    if groups == 1:
        if image.shape[1] > 1:
            reads = step.tie(incoming, outer if transposed else inner, INPUT)
            step.add_up(reads, image, weight)
        outgoing = inner if transposed else outer
    elif weight.shape[1] == 1 and not transposed and groups == image.shape[1]:
        outgoing = _depthwise(step, incoming, outer, groups)
    else:
        outgoing = _tie_groups(step, incoming, outer, inner, groups, transposed)
    if bias is not None:
        outgoing = step.tie(outgoing, step.labels(bias)[0])
    return (seen[0], outgoing, *(None for _ in seen[2:]))


def _depthwise(step: Step, incoming: Axis, outer: Axis, groups: int) -> Axis:
    """Tie every output of a channel to it; several outputs of one live together.

    Where all channels have the same kernel, such as that of a blur, the outputs are the inputs.
    """
    if outer is None or incoming is None:
        return step.tie(incoming, None) if outer is None else _pin(step, outer)
    step.held.append(incoming)
    table = gather(outer, (groups, len(outer) // groups), 0)
    first = step.constraints.tie_rows(table, step.reason("outputs of one channel"))
    met = step.tie(first, incoming)
    if met is None or (outer >= 0).all():
        return outer
    return np.repeat(met, len(outer) // groups)


def _tie_groups(
    step: Step, incoming: Axis, outer: Axis, inner: Axis, groups: int, transposed: bool
) -> Axis:
    """Remove whole groups, or equal positions of all groups, whichever leaves more choice.

    A convolution with `g` groups has the weight (outputs, inputs / g); a transposed one
    (inputs, outputs / g): there `outer` are the inputs, and every group has the outputs `inner`.
    """
    if transposed:
        return _grouped_transposed(step, incoming, outer, inner, groups)
    if incoming is None or outer is None:
        step.pin(incoming, MET)
        return _pin(step, outer)
    into, from_ = len(incoming) // groups, len(outer) // groups
    reading = step.choose(*_readings(groups, into))
    reason = step.reason("channels of one group")
    if reading is None:
        step.pin(incoming, "in a grouped convolution")
        return _pin(step, outer)
    table_in, table_out = incoming.reshape(groups, into), outer.reshape(groups, from_)
    if reading == "positions":
        first = step.constraints.tie_rows(table_in, reason)
        if inner is not None:
            step.tie(first, inner)
        step.constraints.tie_rows(table_out, reason)
        step.named["groups"] = np.full(groups, UNIFORM)
        return outer
    step.pin(inner, "a group keeps its inputs")
    first_in = step.constraints.tie_rows(table_in.T, reason)
    first_out = step.constraints.tie_rows(table_out.T, reason)
    step.tie(first_in, first_out)
    step.named["groups"] = first_in
    return outer


def _grouped_transposed(step: Step, incoming: Axis, outer: Axis, inner: Axis, groups: int) -> Axis:
    if incoming is None or outer is None:
        step.pin(incoming, MET)
        step.pin(outer, MET)
        step.pin(inner, MET)
        return None
    each = step.results[0].shape[1] // groups
    reading = step.choose(*_readings(groups, len(outer) // groups))
    reason = step.reason("channels of one group")
    step.tie(incoming, outer)
    if reading is None:
        step.pin(outer, "in a grouped convolution")
        step.pin(inner, "in a grouped convolution")
        return None
    table = outer.reshape(groups, -1)
    if reading == "positions":
        step.constraints.tie_rows(table, reason)
        step.named["groups"] = np.full(groups, UNIFORM)
        return np.full(groups, CONSTANT) if inner is None else np.tile(inner, groups)
    step.pin(inner, "a group keeps its outputs")
    first = step.constraints.tie_rows(table.T, reason)
    step.named["groups"] = first
    return np.repeat(first, each)


def _readings(groups: int, inputs: int) -> tuple[str, ...]:
    return ("groups", "positions") if groups >= inputs else ("positions", "groups")


def _pin(step: Step, axis: Ids | None) -> Axis:
    step.pin(axis, MET)
    return axis
