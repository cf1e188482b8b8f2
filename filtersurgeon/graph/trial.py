"""The trial of a cut: the narrow network must do, operator by operator, what is expected of it.

Shapes alone do not show that the channels that are left meet the right weights; labels do. The
network is run again in its narrow form, its tensors labelled as what they are left of, and after
every operator the labels must be those of the first run without the removed ones. Where a network
holds a number of channels in Python, the two runs part, and the operator where they do is known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor, nn

from filtersurgeon.graph.groups import Groups, Mask
from filtersurgeon.graph.labels import UNIFORM, Axis
from filtersurgeon.graph.narrow import Settings, narrowed, survivors
from filtersurgeon.graph.tracer import Key, Record, Seen, Trace, trace


class _PartedError(Exception):
    """The narrow run is no longer the wide one with fewer channels."""


def parting(
    network: nn.Module,
    image: Tensor,
    wide: Trace,
    groups: Groups,
    left: Mask,
    settings: Settings,
    modes: Mapping[Key, int],
) -> int | None:
    """Run a network in its narrow form and find the operator where it goes wrong.

    Args:
        network: in its wide form; left as it is.
        image: as for :func:`~filtersurgeon.graph.tracer.trace`.
        wide: the trace of the wide network.
        groups: the groups of that trace.
        left: group -> whether it is left.
        settings: what modules hold in Python in the narrow form.
        modes: as for the wide trace.

    Returns:
        The number of the operator, or None if the whole run is as expected.
    """
    alive = left[groups.of]
    done = 0

    def watch(record: Record) -> None:
        nonlocal done
        if done >= len(wide.records) or not _matches(wide.records[done], record, groups, alive):
            raise _PartedError
        done += 1

    with narrowed(network, wide.slots, alive, settings) as slots:
        try:
            trace(network, image, modes=modes, slots=slots, watch=watch)
        except _PartedError:
            return min(done, len(wide.records) - 1)
        except Exception:
            # Whatever a network's own code raises when it is given fewer channels than it holds.
            return min(done, len(wide.records) - 1)
    return None if done == len(wide.records) else done


def _matches(wide: Record, narrow: Record, groups: Groups, alive: Mask) -> bool:
    if wide.key != narrow.key or len(wide.results) != len(narrow.results):
        return False
    pairs = zip(wide.results, narrow.results, strict=True)
    return all(_shrunk(before, after, groups, alive) for before, after in pairs)


def _shrunk(before: Seen, after: Seen, groups: Groups, alive: Mask) -> bool:
    if len(before.shape) != len(after.shape):
        return False
    for axis, (wide, narrow) in enumerate(zip(before.labels, after.labels, strict=True)):
        if wide is None:
            # An axis of length one has no labels, however long it was before.
            if before.shape[axis] != after.shape[axis]:
                return False
        elif not _left_of(wide, narrow, after.shape[axis], groups, alive):
            return False
    return True


def _left_of(wide: Axis, narrow: Axis, size: int, groups: Groups, alive: Mask) -> bool:
    assert wide is not None
    if (wide == UNIFORM).any():
        # How much there is of it shows where it meets channels.
        return narrow is None or bool((narrow[narrow >= 0] >= 0).all())
    expected = survivors(wide, alive)
    if len(expected) != size:
        return False
    if narrow is None:
        return size == 1
    return bool(
        np.array_equal(
            np.where(expected < 0, expected, groups.of[expected]),
            np.where(narrow < 0, narrow, groups.of[narrow]),
        )
    )
