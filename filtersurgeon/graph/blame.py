"""Find which channels a network cannot do without, where a trial goes wrong, and where to pin them.

A trial removes channels of many bundles at once. Which of them a failure is due to is found by
removing fewer, until every bundle that is left is needed for it. They are pinned at the operator
that failed, if it met them, or else at the nearest one in the same module that did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from filtersurgeon.graph.groups import Bundle, Groups, Mask
from filtersurgeon.graph.labels import Axis
from filtersurgeon.graph.record import Record, Seen, Trace

Mismatch = Callable[[Mask], int | None]
"""Takes which groups are kept; gives the number of the operator that fails, if any."""

Place = tuple[int, int]
"""A tensor of an operator, its arguments before its results, and an axis of it."""


def find_culprits(
    groups: Groups, record: Record, failed: int, keep: Mask, mismatch: Mismatch
) -> list[Bundle]:
    """Give the bundles whose removal makes an operator fail, each of them needed for it.

    Args:
        groups: of the original run.
        record: the operator that fails.
        failed: its number.
        keep: group -> whether it was kept in the trial.
        mismatch: runs another trial.
    """
    cut = [b for b in groups.bundles if not b.pinned and not keep[b.groups].all()]

    def fails(some: Sequence[Bundle]) -> bool:
        trial = np.ones(len(keep), bool)
        for bundle in some:
            trial[bundle.groups] = keep[bundle.groups]
        return mismatch(trial) == failed

    met = _members(record.inputs, groups)
    likely = [bundle for bundle in cut if met[bundle.groups].any()]
    if len(likely) < len(cut) and likely and fails(likely):
        cut = likely
    return _smallest(cut, fails)


def _smallest(some: list[Bundle], fails: Callable[[Sequence[Bundle]], bool]) -> list[Bundle]:
    """Leave bundles out as long as the failure stays, in halves, quarters, and so on."""
    size = len(some) // 2
    while size and len(some) > 1:
        start = 0
        while start < len(some) and len(some) > 1:
            rest = [*some[:start], *some[start + size :]]
            if rest and fails(rest):
                some = rest
            else:
                start += size
        size = min(size, len(some)) // 2
    return some


def find_places(
    trace: Trace, groups: Groups, failed: int, bundle: Bundle, near: Callable[[Record], bool]
) -> tuple[int, list[Place]]:
    """Find where a bundle is met nearest to an operator: among arguments, or else results.

    First at the operator, then before it, then after it: a number in Python may stand for the
    width of what is met only later.

    Args:
        trace: the original run.
        groups: its groups.
        failed: number of the operator.
        bundle: what is looked for.
        near: tells which operators are looked at.

    Returns:
        The number of the operator, and its tensors and axes that hold channels of the bundle; no
        places where none has met it.
    """
    inside = np.zeros(len(groups), bool)
    inside[bundle.groups] = True
    for number in (*range(failed, -1, -1), *range(failed + 1, len(trace.records))):
        record = trace.records[number]
        if not near(record):
            continue
        places = list(_holding(record.inputs, groups, inside))
        if not places:
            results = _holding(record.results, groups, inside)
            places = [(len(record.inputs) + tensor, axis) for tensor, axis in results]
        if places:
            return number, places
    return failed, []


def axis_at(record: Record, place: Place) -> Axis:
    """Give the labels at a place of an operator; None where it has none there."""
    tensors = [*record.inputs, *record.results]
    tensor, axis = place
    if tensor >= len(tensors) or axis >= len(tensors[tensor].labels):
        return None
    return tensors[tensor].labels[axis]


def _holding(tensors: Sequence[Seen], groups: Groups, inside: Mask) -> Iterator[Place]:
    for tensor, seen in enumerate(tensors):
        for axis, ids in enumerate(seen.labels):
            if ids is not None and inside[groups.members(ids)].any():
                yield tensor, axis


def _members(tensors: Sequence[Seen], groups: Groups) -> Mask:
    found = np.zeros(len(groups), bool)
    for seen in tensors:
        for ids in seen.labels:
            if ids is not None:
                found[groups.members(ids)] = True
    return found
