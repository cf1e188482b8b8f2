"""Operators that only move elements: the labels move along."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from filtersurgeon.graph.labels import CONSTANT, UNIFORM, Axis, Labels, Step, blocks, gather, spread
from filtersurgeon.graph.ops import declare, operator
from filtersurgeon.graph.zeros import if_all_silent

_BLOCK = "block"
"""Asks which of the axes that are flattened into one gives the labels."""


declare("clone", synonyms=("alias", "detach", "lift_fresh", "contiguous", "_to_copy"), copies=True)


@operator(
    "view",
    synonyms=("_unsafe_view", "_reshape_alias", "reshape", "_reshape_copy"),
    zero_preserving=if_all_silent,
)
@operator("flatten", "unflatten", zero_preserving=if_all_silent)
def reshape(step: Step) -> Labels:
    """Follow the elements; channels that are dealt out over several axes move together."""
    tensor, result = step.args[0], step.results[0]
    labels, shape = step.labels(tensor), tensor.shape
    made: list[Axis] = [None] * result.ndim
    for old, new in blocks(shape, result.shape):
        axis = _join_axes(step, old, [labels[a] for a in old], [shape[a] for a in old])
        if axis is None:
            continue
        if len(new) == 1:
            made[new[0]] = axis
        else:
            position, dealt = _dealt(step, axis, [result.shape[a] for a in new])
            made[new[position]] = dealt
    for place, axis in enumerate(labels):
        if axis is not None and shape[place] == 1:
            _keep_lone(step, made, axis, place)
    return tuple(made)


def _keep_lone(step: Step, made: list[Axis], axis: Any, place: int) -> None:
    """Carry the label of an axis with one channel, as there are in pruned networks, through.

    It goes to the axis of length one that stands in its place between the longer ones, or else to
    the next longer one, all of whose elements belong to it. Others flattened into that one give
    way if they did so in the original network.
    """
    old, new = step.args[0].shape, step.results[0].shape
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
    original = {} if step.prescribed is None else step.prescribed.answers
    led = any(question.startswith(_BLOCK) and original[question] == place for question in original)
    if made[position] is None or led:
        made[position] = np.repeat(axis, new[position])


def _ones(shape: Sequence[int], place: int) -> int:
    """Count the axes of length one straight before a place."""
    count = 0
    while count < place and shape[place - 1 - count] == 1:
        count += 1
    return count


def _join_axes(
    step: Step, places: Sequence[int], axes: Sequence[Axis], shape: Sequence[int]
) -> Axis:
    labelled = [position for position, axis in enumerate(axes) if axis is not None]
    if not labelled:
        return None
    longest = max(labelled, key=lambda position: shape[position])
    if len(labelled) > 1:
        place = step.as_before(f"{_BLOCK} {len(step.answers)}", places[longest])
        longest = places.index(place) if place in places else longest
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
    return position, step.constraints.tie_rows(gather(axis, shape, position), reason)


@operator("as_strided", zero_preserving=if_all_silent)
def restride(step: Step) -> Labels:
    """Pass the labels where only the strides of axes of length one are new, else none."""
    tensor, result = step.args[0], step.results[0]
    labels = step.labels(tensor)
    same = tensor.shape == result.shape and tensor.storage_offset() == result.storage_offset()
    strides = zip(tensor.shape, tensor.stride(), result.stride(), strict=True) if same else ()
    if same and all(size == 1 or old == new for size, old, new in strides):
        return labels
    for axis in labels:
        step.pin(axis, "laid out anew in memory")
    return (None,) * result.ndim


@operator("permute", equivariant=True, zero_preserving=if_all_silent)
def permute(step: Step) -> Labels:
    """Reorder axes."""
    labels = step.labels(step.args[0])
    return tuple(labels[axis] for axis in step.args[1])


@operator("transpose", equivariant=True, zero_preserving=if_all_silent)
def transpose(step: Step) -> Labels:
    """Swap two axes."""
    labels = list(step.labels(step.args[0]))
    one, other = step.args[1:3]
    labels[one], labels[other] = labels[other], labels[one]
    return tuple(labels)


@operator("t", "numpy_T", "mT", equivariant=True, zero_preserving=if_all_silent)
def swap_axes(step: Step) -> Labels:
    """Swap the two axes of a matrix."""
    return step.labels(step.args[0])[::-1]


@operator("unsqueeze", zero_preserving=if_all_silent)
def unsqueeze(step: Step) -> Labels:
    """Add an axis of length one."""
    labels = list(step.labels(step.args[0]))
    labels.insert(step.args[1] % (len(labels) + 1), None)
    return tuple(labels)


@operator("squeeze", zero_preserving=if_all_silent)
def squeeze(step: Step) -> Labels:
    """Drop axes of length one."""
    tensor = step.args[0]
    dims = step.arg(1, "dim")
    given = range(tensor.ndim) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % tensor.ndim for dim in given if tensor.shape[dim] == 1}
    return tuple(x for axis, x in enumerate(step.labels(tensor)) if axis not in gone)


def _unless_repeated(step: Step, made: Sequence[Labels]) -> bool:
    """Take zeros as preserved if no axis of equal values was made."""
    before = step.labels(step.args[0])
    uniform = (axis for labels in made for axis in labels[-len(before) :] if axis is not None)
    return if_all_silent(step, made) and not any((axis == UNIFORM).any() for axis in uniform)


@operator("expand", zero_preserving=_unless_repeated)
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


@operator("repeat", zero_preserving=_unless_repeated)
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


def _pads_with_zeros(step: Step, made: Sequence[Labels]) -> bool:
    return step.arg(2, "value", 0) == 0 and if_all_silent(step, made)


@operator("constant_pad_nd", zero_preserving=_pads_with_zeros)
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
            # Not uniform: how much there is on each side stands in Python, or is worked out.
            padding = np.full(before, CONSTANT), np.full(after, CONSTANT)
            labels[-1 - position] = np.concatenate([padding[0], axis, padding[1]])
    return tuple(labels)
