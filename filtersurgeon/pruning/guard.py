"""Bounds on a cut: no layer is emptied, and widths suit the hardware."""

from __future__ import annotations

from math import gcd

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.graph.groups import Groups, Mask

Scores = NDArray[np.float64]
"""Group -> how much it is worth, higher = more important."""


def keep_alive(groups: Groups, left: Mask, worth: Scores, least: int = 1) -> list[tuple[str, int]]:
    """Bring back the most important groups of every axis that would have too few, in place.

    Args:
        groups: the channels.
        left: group -> whether it is left; changed.
        worth: what groups are worth.
        least: how many channels every axis of every tensor keeps.

    Returns:
        The tensor and axis wherever something was brought back.
    """
    rescued = []
    owners, members_of_all, counts = groups.axes
    stops = np.cumsum(counts)
    # Groups only come back, so that an axis with enough of them needs no second look.
    enough = np.add.reduceat(left[members_of_all], stops - counts) >= np.minimum(least, counts)
    for number in np.flatnonzero(~enough):
        members = members_of_all[stops[number] - counts[number] : stops[number]]
        alive = left[members]
        wanted = min(least, len(members))
        if int(alive.sum()) >= wanted:
            continue
        rescued.append(owners[number])
        for group in _best_first(np.unique(members[~alive]), worth):
            left[group] = True
            if int(left[members].sum()) >= wanted:
                break
    return rescued


def round_widths(groups: Groups, left: Mask, worth: Scores, multiple: int) -> None:
    """Bring groups back until every bundle makes a multiple of so many channels, in place.

    A bundle that has no such number to begin with keeps what it has.
    """
    if multiple == 1:
        return
    for bundle in groups.bundles:
        members = bundle.groups
        kept = int(left[members].sum())
        if bundle.pinned or kept == len(members):
            continue
        step = multiple // gcd(multiple, _channels_each(groups, bundle.axes, members[0]))
        wanted = min(len(members), -(-kept // step) * step)
        for group in _best_first(members[~left[members]], worth)[: wanted - kept]:
            left[group] = True


def _channels_each(groups: Groups, axes: tuple[tuple[str, int], ...], group: int) -> int:
    """Count the channels of one group along an axis of the bundle, the least of them."""
    counts = []
    for name, axis in axes:
        ids = groups.slots[name][axis]
        assert ids is not None
        counts.append(int((groups.of[ids[ids >= 0]] == group).sum()))
    return max(1, min(counts))


def _best_first(members: NDArray[np.int64], worth: Scores) -> NDArray[np.int64]:
    return members[np.lexsort((members, -worth[members]))]
