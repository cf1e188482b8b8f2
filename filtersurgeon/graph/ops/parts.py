"""Operators that take parts of a tensor: the labels are cut as the elements are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from filtersurgeon.graph.labels import Axis, Labels, Step
from filtersurgeon.graph.ops import operator, pin_all
from filtersurgeon.graph.zeros import if_all_silent


@operator("repeat_interleave", "scatter", "index_put")
def index_along(step: Step) -> Labels:
    """Pick along all axes by indices that the network computes, or write there."""
    pin_all(step, "picked by indices")
    return (None,) * step.results[0].ndim


def _source_is_silent(step: Step, _made: Sequence[Labels]) -> bool:
    """Take what is picked as silent where its source is, unless it has the labels of a list."""
    return step.silent(step.args[0]) and not step.owns(step.args[0])


@operator("gather", zero_preserving=_source_is_silent)
def gather(step: Step) -> Labels:
    """Pick along one axis, at places that may be others for every channel."""
    source, dim, index = step.arg(0, "self"), step.arg(1, "dim"), step.arg(2, "index")
    held, picked = step.labels(source), step.labels(index)
    made: list[Axis] = []
    for axis, (own, other) in enumerate(zip(held, picked, strict=True)):
        if axis != dim % len(held) and source.shape[axis] == index.shape[axis]:
            made.append(step.tie(own, other, "picked by indices"))
        else:
            step.pin(own, "picked by indices")
            step.pin(other, "used as indices")
            made.append(None)
    return tuple(made)


def _pick(step: Step, axis: Axis, index: Tensor) -> Axis:
    picked = None if axis is None else step.pick(axis, index)
    if picked is None:
        step.pin(axis, "picked by indices")
    return picked


@operator("index_select", zero_preserving=_source_is_silent)
def index_select(step: Step) -> Labels:
    """Pick along an axis by indices; a list that the network keeps is renumbered."""
    labels = list(step.labels(step.args[0]))
    dim = step.arg(1, "dim") % len(labels)
    labels[dim] = _pick(step, labels[dim], step.arg(2, "index"))
    return tuple(labels)


@operator("index", zero_preserving=_source_is_silent)
def index(step: Step) -> Labels:
    """Pick by tensors of indices; the axes without one pass.

    Where the network keeps a list of indices into one of its own tensors, such as the filter of
    every channel, what is picked has the labels of the list. A list of channels is renumbered.
    """
    tensor, given = step.args[:2]
    labels = step.labels(tensor)
    if len(given) == 1 and given[0] is not None and given[0].ndim == 1 and step.owns(tensor):
        listed = step.own(given[0])
        if listed is not None:
            step.pin(labels[0], "picked by indices")
            return (*listed, *labels[1:])
    picks = [*given, *(None,) * (len(labels) - len(given))]
    picked = [axis for axis, pick in enumerate(picks) if pick is not None]
    if len(picked) == 1 and picks[picked[0]].ndim == 1:
        found = _pick(step, labels[picked[0]], picks[picked[0]])
        return tuple(found if axis == picked[0] else x for axis, x in enumerate(labels))
    for axis in picked:
        step.pin(labels[axis], "picked by indices")
    free = [labels[axis] for axis, pick in enumerate(picks) if pick is None]
    added = step.results[0].ndim - len(free)
    adjacent = picked == list(range(picked[0], picked[-1] + 1))
    start = picked[0] if adjacent else 0
    return (*free[:start], *(None for _ in range(added)), *free[start:])


@operator("slice", "narrow", zero_preserving=if_all_silent)
def slice_(step: Step) -> Labels:
    """Take a range of an axis, whose bounds the network may hold or work out."""
    tensor, result = step.args[0], step.results[0]
    labels = list(step.labels(tensor))
    dim = step.arg(1, "dim", 0) % tensor.ndim
    axis, size = labels[dim], tensor.shape[dim]
    if axis is None or result.shape[dim] == size:
        return tuple(labels)
    start = min(max(_from_end(step.arg(2, "start") or 0, size), 0), size)
    every = step.arg(4, "step", 1)
    stop = start + result.shape[dim] * every
    halves = size % 2 == 0 and (start == size // 2 or stop == size // 2)
    reading = step.choose("fixed", "halves") if halves and every == 1 else step.choose("fixed")
    if reading is None or every != 1:
        step.pin(axis, "cut at fixed positions" if every == 1 else "taken at fixed distances")
    elif reading == "halves":
        step.constraints.tie_rows(axis.reshape(2, -1), step.reason("cut into halves"))
    else:
        step.held += [axis[:start], axis[:stop], axis[start:stop]]
    labels[dim] = axis[start : min(stop, size) : every]
    return tuple(labels)


def _from_end(position: int, size: int) -> int:
    return position + size if position < 0 else position


@operator("split", "unsafe_split", zero_preserving=if_all_silent)
def split(step: Step) -> list[Labels]:
    """Cut an axis into parts of equal length, which shrink alike."""
    return _cut(step, ("alike",), step.arg(2, "dim", 0))


@operator("split_with_sizes", "unsafe_split_with_sizes", zero_preserving=if_all_silent)
def split_with_sizes(step: Step) -> list[Labels]:
    """Cut an axis into parts of given lengths."""
    return _cut(step, ("fixed", "alike"), step.arg(2, "dim", 0))


def _cut(step: Step, readings: Sequence[str], dim: int) -> list[Labels]:
    labels = list(step.labels(step.args[0]))
    axis = labels[dim]
    if axis is None:
        return [tuple(labels)] * len(step.results)
    sizes = [part.shape[dim] for part in step.results]
    parts = np.split(axis, np.cumsum(sizes)[:-1])
    reading = step.choose(*readings)
    if reading == "fixed":
        step.held += [parts, *parts]
    elif reading == "alike" and len(set(sizes)) == 1:
        step.constraints.tie_rows(np.stack(parts), step.reason("cut into equal parts"))
        step.held.append(parts[0])
    elif len(sizes) > 1:
        step.pin(axis, "cut at fixed positions")
    return [_replace_axis(labels, dim, part) for part in parts]


@operator("glu", equivariant=True, zero_preserving=if_all_silent)
def gate(step: Step) -> Labels:
    """Multiply the first half of an axis by the sigmoids of the second; the halves shrink alike."""
    labels = list(step.labels(step.args[0]))
    dim = step.arg(1, "dim", -1)
    axis = labels[dim]
    if axis is not None:
        halves = axis.reshape(2, -1)
        labels[dim] = step.constraints.tie_rows(halves, step.reason("cut into halves"))
    return tuple(labels)


def _replace_axis(labels: Sequence[Axis], dim: int, axis: Axis) -> Labels:
    changed = list(labels)
    changed[dim] = axis
    return tuple(changed)
