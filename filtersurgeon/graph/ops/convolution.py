"""Convolutions of every kind."""

from __future__ import annotations

import numpy as np

from filtersurgeon.graph.labels import CONSTANT, UNIFORM, Axis, Ids, Labels, Step, gather
from filtersurgeon.graph.ops import rule

TRANSPOSED = "transposed"
"""Whether a convolution's weight is (in, out/groups, ...), in the answers of its record."""

_KERNEL = "positions of a kernel"
_SPACE = "used as positions by a convolution"


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(step: Step) -> Labels:
    """Meet the input's channels with the weight's, and pass on the weight's outputs."""
    image, weight, bias = step.args[:3]
    transposed, groups = step.arg(6, "transposed", False), step.arg(8, "groups", 1)
    seen, held = step.labels(image), step.labels(weight)
    if transposed:
        step.answers[TRANSPOSED] = True
    for axis in seen[2:]:
        step.pin(axis, _SPACE)
    for axis in held[2:]:
        step.pin(axis, _KERNEL)
    incoming = seen[1]
    outer, inner = held[0], held[1]
    if groups == 1:
        if image.shape[1] > 1:
            reads = step.tie(incoming, outer if transposed else inner, "reads the network's input")
            step.add_up(reads, image, weight)
        outgoing = inner if transposed else outer
    elif weight.shape[1] == 1 and not transposed and groups == image.shape[1]:
        outgoing = _depthwise(step, incoming, outer, groups)
    else:
        outgoing = _grouped(step, incoming, outer, inner, groups, transposed)
    if bias is not None:
        outgoing = step.tie(outgoing, step.labels(bias)[0])
    return (seen[0], outgoing, *(None for _ in seen[2:]))


def _depthwise(step: Step, incoming: Axis, outer: Axis, groups: int) -> Axis:
    """Tie every output of a channel to it; several outputs of one live together."""
    if outer is None or incoming is None:
        return step.tie(incoming, None) if outer is None else _pinned(step, outer)
    step.held.append(incoming)
    table = gather(outer, (groups, len(outer) // groups), 0)
    first = step.constraints.tie_rows(table, step.reason("outputs of one channel"))
    step.tie(first, incoming)
    return outer


def _grouped(
    step: Step, incoming: Axis, outer: Axis, inner: Axis, groups: int, transposed: bool
) -> Axis:
    """Remove whole groups, or equal positions of all groups, whichever leaves more choice.

    A convolution with `g` groups has the weight (outputs, inputs / g); a transposed one
    (inputs, outputs / g): there `outer` are the inputs, and every group has the outputs `inner`.
    """
    if transposed:
        return _grouped_transposed(step, incoming, outer, inner, groups)
    if incoming is None or outer is None:
        step.pin(incoming, "met values that are not channels")
        return _pinned(step, outer)
    into, from_ = len(incoming) // groups, len(outer) // groups
    reading = step.choose(*_readings(groups, into))
    reason = step.reason("channels of one group")
    if reading is None:
        step.pin(incoming, "in a grouped convolution")
        return _pinned(step, outer)
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
        step.pin(incoming, "met values that are not channels")
        step.pin(outer, "met values that are not channels")
        step.pin(inner, "met values that are not channels")
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


def _pinned(step: Step, axis: Ids | None) -> Axis:
    step.pin(axis, "met values that are not channels")
    return axis
