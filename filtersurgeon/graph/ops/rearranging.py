"""Operators that put the elements of an axis elsewhere."""

from __future__ import annotations

from math import prod

import numpy as np

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import operator
from filtersurgeon.graph.zeros import if_all_silent


@operator("flip", zero_preserving=if_all_silent)
def flip(step: Step) -> Labels:
    """Reverse axes."""
    labels = list(step.labels(step.args[0]))
    for dim in step.args[1]:
        axis = labels[dim]
        labels[dim] = None if axis is None else axis[::-1]
    return tuple(labels)


@operator("roll", zero_preserving=if_all_silent)
def roll(step: Step) -> Labels:
    """Shift axes in a circle."""
    labels = list(step.labels(step.args[0]))
    for dim in step.arg(2, "dims", ()):
        step.pin(labels[dim], "shifted by a fixed number")
    return tuple(labels)


@operator("unfold", zero_preserving=if_all_silent)
def unfold(step: Step) -> Labels:
    """Slide a window along an axis; the window becomes the last one."""
    labels = list(step.labels(step.args[0]))
    dim = step.args[1]
    step.pin(labels[dim], "used as positions")
    labels[dim] = None
    return (*labels, None)


@operator("im2col", zero_preserving=if_all_silent)
def im2col(step: Step) -> Labels:
    """Lay every window out as channels times positions."""
    labels = step.labels(step.args[0])
    kernel = step.args[1][0] * step.args[1][1]
    axis = None if labels[1] is None else np.repeat(labels[1], kernel)
    return (labels[0], axis, None)


@operator("col2im", zero_preserving=if_all_silent)
def col2im(step: Step) -> Labels:
    """Add up the windows of every channel: its values at all positions of a window go together."""
    labels = step.labels(step.args[0])
    axis = labels[-2]
    step.pin(labels[-1], "used as positions")
    if axis is not None:
        table = axis.reshape(-1, prod(step.args[2]))
        axis = step.constraints.tie_rows(table.T, step.reason("become one channel"))
    return (*labels[:-2], axis, None, None)


@operator("channel_shuffle", "native_channel_shuffle", zero_preserving=if_all_silent)
def channel_shuffle(step: Step) -> Labels:
    """Interleave the groups of the channels."""
    labels = list(step.labels(step.args[0]))
    axis = labels[1]
    if axis is not None:
        table = axis.reshape(step.args[1], -1)
        step.constraints.tie_rows(table, step.reason("shuffled"))
        labels[1] = table.T.ravel()
    return tuple(labels)


@operator("pixel_shuffle", zero_preserving=if_all_silent)
def pixel_shuffle(step: Step) -> Labels:
    """Make positions of channels: those of one result channel stand together."""
    labels = list(step.labels(step.args[0]))
    axis = labels[-3]
    if axis is not None:
        table = axis.reshape(-1, step.args[1] ** 2)
        labels[-3] = step.constraints.tie_rows(table.T, step.reason("become one channel"))
    return (*labels[:-2], None, None)


@operator("pixel_unshuffle", zero_preserving=if_all_silent)
def pixel_unshuffle(step: Step) -> Labels:
    """Make channels of positions."""
    labels = list(step.labels(step.args[0]))
    axis = labels[-3]
    labels[-3] = None if axis is None else np.repeat(axis, step.args[1] ** 2)
    return (*labels[:-2], None, None)
