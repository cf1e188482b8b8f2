"""Operators that only move elements: the labels move along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from filtersurgeon.graph.labels import CONSTANT, UNIFORM, Axis, Labels, blocks, gather, spread
from filtersurgeon.graph.rules import rule
from filtersurgeon.graph.step import Step


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "_reshape_copy", "flatten", "unflatten")
def reshape(step: Step) -> Labels:
    """Follow the elements; channels that are dealt out over several axes move together."""
    tensor, result = step.args[0], step.results[0]
    labels, shape = step.labels(tensor), tensor.shape
    made: list[Axis] = [None] * result.ndim
    for old, new in blocks(shape, result.shape):
        axis = _joined(step, [labels[a] for a in old], [shape[a] for a in old])
        if axis is None:
            continue
        if len(new) == 1:
            made[new[0]] = axis
        else:
            position, dealt = _dealt(step, axis, [result.shape[a] for a in new])
            made[new[position]] = dealt
    for place, axis in enumerate(labels):
        if axis is not None and shape[place] == 1:
            _keep_lone(made, axis, place, shape, result.shape)
    return tuple(made)


def _keep_lone(
    made: list[Axis], axis: Any, place: int, old: Sequence[int], new: Sequence[int]
) -> None:
    """Carry the label of an axis with one channel, as there are in narrow networks, through.

    It goes to the axis of length one that stands in its place between the longer ones, or else to
    the next longer one, all of whose elements belong to it.
    """
    before, position = 1, 0
    for size in old[:place]:
        before *= size
    reached = 1
    while (
        position < len(new) - 1
        and reached * new[position] <= before
        and (reached < before or (new[position] == 1 and _ones(old, place) > _ones(new, position)))
    ):
        reached *= new[position]
        position += 1
    if made[position] is None:
        made[position] = np.repeat(axis, new[position])


def _ones(shape: Sequence[int], place: int) -> int:
    """Count the axes of length one straight before a place."""
    count = 0
    while count < place and shape[place - 1 - count] == 1:
        count += 1
    return count


def _joined(step: Step, axes: Sequence[Axis], shape: Sequence[int]) -> Axis:
    labelled = [position for position, axis in enumerate(axes) if axis is not None]
    if not labelled:
        return None
    longest = max(labelled, key=lambda position: shape[position])
    for position in labelled:
        if position != longest:
            step.pin(axes[position], "flattened together with other channels")
    axis = axes[longest]
    if axis is None or len(axes) == 1:
        return axis
    return spread(axis, longest, shape)


def _dealt(step: Step, axis: Any, shape: Sequence[int]) -> tuple[int, Axis]:
    """Deal a flat axis out over several; find the one along which labels differ."""
    for position in range(len(shape)):
        table = gather(axis, shape, position)
        if (table == table[0]).all():
            return position, table[0]
    reading = step.choose("last", "first")
    if reading is None:
        step.pin(axis, "dealt out over axes whose lengths are fixed")
        return 0, None
    position = len(shape) - 1 if reading == "last" else 0
    reason = step.reason("dealt out over several axes")
    return position, step.ledger.tie_rows(gather(axis, shape, position), reason)


@rule("permute")
def permute(step: Step) -> Labels:
    """Reorder axes."""
    labels = step.labels(step.args[0])
    return tuple(labels[axis] for axis in step.args[1])


@rule("transpose")
def transpose(step: Step) -> Labels:
    """Swap two axes."""
    labels = list(step.labels(step.args[0]))
    one, other = step.args[1:3]
    labels[one], labels[other] = labels[other], labels[one]
    return tuple(labels)


@rule("t", "numpy_T", "mT")
def turned(step: Step) -> Labels:
    """Swap the two axes of a matrix."""
    return step.labels(step.args[0])[::-1]


@rule("unsqueeze")
def unsqueeze(step: Step) -> Labels:
    """Add an axis of length one."""
    labels = list(step.labels(step.args[0]))
    labels.insert(step.args[1] % (len(labels) + 1), None)
    return tuple(labels)


@rule("squeeze")
def squeeze(step: Step) -> Labels:
    """Drop axes of length one."""
    tensor = step.args[0]
    dims = step.arg(1, "dim")
    given = range(tensor.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % tensor.ndim for dim in given if tensor.shape[dim] == 1}
    return tuple(x for axis, x in enumerate(step.labels(tensor)) if axis not in gone)


@rule("expand")
def expand(step: Step) -> Labels:
    """Repeat axes of length one: uniform along them."""
    tensor, result = step.args[0], step.results[0]
    added = result.ndim - tensor.ndim
    labels = ((None,) * added) + step.labels(tensor)
    before = (1,) * added + tuple(tensor.shape)
    return tuple(
        np.full(now, UNIFORM) if was == 1 and now > 1 else axis
        for was, now, axis in zip(before, result.shape, labels, strict=True)
    )


@rule("repeat")
def repeat(step: Step) -> Labels:
    """Lay copies side by side."""
    tensor, times = step.args[:2]
    added = len(times) - tensor.ndim
    labels = ((None,) * added) + step.labels(tensor)
    shape = (1,) * added + tuple(tensor.shape)
    return tuple(
        np.full(count, UNIFORM)
        if size == 1 and count > 1
        else np.tile(axis, count)
        if axis is not None
        else None
        for size, count, axis in zip(shape, times, labels, strict=True)
    )


@rule("repeat_interleave", "index_select", "gather", "scatter", "index_put", "masked_fill_none")
def indexed(step: Step) -> Labels:
    """Pick along an axis by indices that the network holds."""
    labels = list(step.labels(step.args[0]))
    dim = step.arg(1, "dim")
    for axis, found in enumerate(labels):
        if step.operator != "index_select" or axis == dim % len(labels):
            step.pin(found, "picked by indices")
            labels[axis] = None
    return tuple(labels)


@rule("index")
def index(step: Step) -> Labels:
    """Pick by tensors of indices; the axes without one pass."""
    labels = step.labels(step.args[0])
    picks = [*step.args[1], *(None,) * (len(labels) - len(step.args[1]))]
    picked = [axis for axis, pick in enumerate(picks) if pick is not None]
    for axis in picked:
        step.pin(labels[axis], "picked by indices")
    free = [labels[axis] for axis, pick in enumerate(picks) if pick is None]
    added = step.results[0].ndim - len(free)
    adjacent = picked == list(range(picked[0], picked[-1] + 1))
    start = picked[0] if adjacent else 0
    return (*free[:start], *(None for _ in range(added)), *free[start:])


@rule("cat", "concat")
def cat(step: Step) -> Labels:
    """Lay tensors end to end."""
    result = step.results[0]
    dim = step.arg(1, "dim", 0) % result.ndim
    parts = [tensor for tensor in step.args[0] if tensor.ndim == result.ndim]
    labels = [step.labels(tensor) for tensor in parts]
    axes = list(
        step.broadcast(
            [
                ((*p.shape[:dim], 1, *p.shape[dim + 1 :]), (*x[:dim], None, *x[dim + 1 :]))
                for p, x in zip(parts, labels, strict=True)
            ],
            result.ndim,
        )
    )
    along = [x[dim] for x in labels]
    if any(axis is not None for axis in along):
        axes[dim] = np.concatenate(
            [
                np.full(p.shape[dim], CONSTANT) if axis is None else axis
                for p, axis in zip(parts, along, strict=True)
            ]
        )
    return tuple(axes)


@rule("stack")
def stack(step: Step) -> Labels:
    """Lay tensors side by side along a new axis."""
    parts = step.args[0]
    ndim = step.results[0].ndim
    axes = step.broadcast([(p.shape, step.labels(p)) for p in parts], ndim - 1)
    dim = step.arg(1, "dim", 0) % ndim
    return (*axes[:dim], None, *axes[dim:])


@rule("select")
def select(step: Step) -> Labels:
    """Take one index of an axis."""
    labels = list(step.labels(step.args[0]))
    step.pin(labels.pop(step.args[1]), "taken one by one")
    return tuple(labels)


@rule("unbind")
def unbind(step: Step) -> list[Labels]:
    """Take every index of an axis by itself."""
    labels = list(step.labels(step.args[0]))
    step.pin(labels.pop(step.arg(1, "dim", 0)), "taken one by one")
    return [tuple(labels)] * len(step.results)


@rule("slice", "narrow")
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
        step.pin(axis, "cut at fixed positions")
    elif reading == "halves":
        step.ledger.tie_rows(axis.reshape(2, -1), step.reason("cut into halves"))
    else:
        step.held += [axis[:start], axis[:stop], axis[start:stop]]
    labels[dim] = axis[start : min(stop, size) : every]
    return tuple(labels)


def _from_end(position: int, size: int) -> int:
    return position + size if position < 0 else position


@rule("split")
def split(step: Step) -> list[Labels]:
    """Cut an axis into parts of equal length, which shrink alike."""
    return _cut(step, ("alike",), step.arg(2, "dim", 0))


@rule("split_with_sizes")
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
        step.ledger.tie_rows(np.stack(parts), step.reason("cut into equal parts"))
        step.held.append(parts[0])
    elif len(sizes) > 1:
        step.pin(axis, "cut at fixed positions")
    return [_replaced(labels, dim, part) for part in parts]


def _replaced(labels: Sequence[Axis], dim: int, axis: Axis) -> Labels:
    changed = list(labels)
    changed[dim] = axis
    return tuple(changed)


@rule("constant_pad_nd")
def pad(step: Step) -> Labels:
    """Pad with one value."""
    labels = list(step.labels(step.args[0]))
    amounts = step.args[1]
    for position in range(len(amounts) // 2):
        before, after = amounts[2 * position : 2 * position + 2]
        axis = labels[-1 - position]
        if axis is not None and (before or after):
            if min(before, after) < 0:
                step.pin(axis, "cropped at fixed positions")
                labels[-1 - position] = None
                continue
            padding = np.full(before, UNIFORM), np.full(after, UNIFORM)
            labels[-1 - position] = np.concatenate([padding[0], axis, padding[1]])
    return tuple(labels)


@rule("flip")
def flip(step: Step) -> Labels:
    """Reverse axes."""
    labels = list(step.labels(step.args[0]))
    for dim in step.args[1]:
        axis = labels[dim]
        labels[dim] = None if axis is None else axis[::-1]
    return tuple(labels)


@rule("roll")
def roll(step: Step) -> Labels:
    """Shift axes in a circle."""
    labels = list(step.labels(step.args[0]))
    for dim in step.arg(2, "dims", ()):
        step.pin(labels[dim], "shifted by a fixed number")
    return tuple(labels)


@rule("unfold")
def unfold(step: Step) -> Labels:
    """Slide a window along an axis; the window becomes the last one."""
    labels = list(step.labels(step.args[0]))
    dim = step.args[1]
    step.pin(labels[dim], "used as positions")
    labels[dim] = None
    return (*labels, None)


@rule("im2col")
def im2col(step: Step) -> Labels:
    """Lay every window out as channels times positions."""
    labels = step.labels(step.args[0])
    kernel = step.args[1][0] * step.args[1][1]
    axis = None if labels[1] is None else np.repeat(labels[1], kernel)
    return (labels[0], axis, None)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(step: Step) -> Labels:
    """Interleave the groups of the channels."""
    labels = list(step.labels(step.args[0]))
    axis = labels[1]
    if axis is not None:
        table = axis.reshape(step.args[1], -1)
        step.ledger.tie_rows(table, step.reason("shuffled"))
        labels[1] = table.T.ravel()
    return tuple(labels)
