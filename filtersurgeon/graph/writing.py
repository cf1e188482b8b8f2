"""Writing into tensors: what is written into a part of one is a part of all that share it."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence

import numpy as np
from torch import Tensor

from filtersurgeon.graph.labels import CONSTANT, UNIFORM, Axis, Labels, Step
from filtersurgeon.graph.ops import Operator

_Known = MutableMapping[int, tuple[Tensor, Labels]]


def relatives(tensor: Tensor, known: _Known) -> Iterator[Tensor]:
    """Find the tensors that share memory with one: what it is a view of, and views of that."""
    base = tensor if tensor._base is None else tensor._base
    for other, _ in known.values():
        if other is base or other._base is base:
            yield other


def overwrite(operator: Operator, step: Step, made: list[Labels], known: _Known) -> list[Labels]:
    """Settle the labels after an operator has written into its first argument.

    A view's labels tell where it lies in the whole, so they stay; what is written into a view of
    equal values stands at a fixed place among them, which are no longer equal. Along an axis that
    no view is a part of, the whole gets the channels that are written.

    Args:
        operator: its record.
        step: its call.
        made: the labels that its rule gives.
        known: every tensor so far with its labels; those that share memory are changed.

    Returns:
        The labels that the written tensor has.
    """
    target = step.args[0]
    if not isinstance(target, Tensor):
        return made
    before = step.labels(target)
    after = before if operator.keeps_labels else made[0]
    if target._base is not None:
        before = _adopt(target, before, after, known)
        after = tuple(_place(step, was, now) for was, now in zip(before, after, strict=True))
    if target._base is not None or _uniform(before):
        for other in list(relatives(target, known)):
            if _uniform(labels := known[id(other)][1]):
                known[id(other)] = (other, tuple(map(_settle, labels)))
    return [after, *made[1:]]


def _adopt(target: Tensor, before: Labels, after: Labels, known: _Known) -> Labels:
    """Give channels to axes of equal values that all views of a tensor span.

    Returns:
        The labels of the view that is written into.
    """
    family = list(relatives(target, known))
    for place, (was, now) in enumerate(zip(before, after, strict=True)):
        if was is None or now is None or not (was == UNIFORM).all() or (now < 0).any():
            continue
        axes = [known[id(other)][1][place : place + 1] for other in family]
        if any(len(x) != 1 or x[0] is not was for x in axes):
            continue
        for other in family:
            labels = known[id(other)][1]
            known[id(other)] = (other, (*labels[:place], now, *labels[place + 1 :]))
        before = (*before[:place], now, *before[place + 1 :])
    return before


def _place(step: Step, was: Axis, now: Axis) -> Axis:
    if was is None or (was < 0).any():
        if now is not was:
            step.pin(now, "written into a part of another tensor")
        return _settle(was)
    return was


def _uniform(labels: Sequence[Axis]) -> bool:
    return any(axis is not None and bool((axis == UNIFORM).any()) for axis in labels)


def _settle(axis: Axis) -> Axis:
    return None if axis is None else np.where(axis == UNIFORM, CONSTANT, axis)
