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
from filtersurgeon.graph.labels import UNIFORM, Axis, Ids
from filtersurgeon.graph.narrow import Settings, narrowed, survivors
from filtersurgeon.graph.record import Key, Record, Seen, Trace
from filtersurgeon.graph.tracer import trace


class _PartedError(Exception):
    """The narrow run is no longer the wide one with fewer channels."""


class _DoneError(Exception):
    """Every operator of the wide run has been repeated."""


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
        wide: the trace of the wide network, or of its first operators.
        groups: the groups of that trace.
        left: group -> whether it is left.
        settings: what modules hold in Python in the narrow form.
        modes: as for the wide trace.

    Returns:
        The number of the operator, or None if the whole run is as expected.
    """
    trial = _Trial(wide, groups, left[groups.of])
    last = len(wide.records) - 1
    with narrowed(network, wide.slots, trial.alive, settings) as slots:
        try:
            trace(network, image, modes=modes, slots=slots, watch=trial.watch, loose=trial.loose)
        except _DoneError:
            return None
        except Exception:
            # Also whatever a network's own code raises when it is given fewer channels.
            return min(trial.done, last)
    return None if trial.done > last and wide.complete else min(trial.done, last)


class _Trial:
    """Compares a narrow run with the wide one."""

    def __init__(self, wide: Trace, groups: Groups, alive: Mask) -> None:
        self.alive = alive
        self.done = 0
        self._wide = wide
        self._of = groups.of
        self._expected: dict[int, tuple[Ids, Ids]] = {}

    def watch(self, record: Record) -> None:
        """Compare an operator with the same one of the wide run."""
        records = self._wide.records
        if self.done >= len(records) or not self._matches(records[self.done], record):
            raise _PartedError
        self.done += 1
        if self.done == len(records) and not self._wide.complete:
            raise _DoneError

    def loose(self, one: Ids, other: Ids) -> None:
        """Check that labels belong together which meet where padding makes room for either."""
        if not np.array_equal(self._of[one], self._of[other]):
            raise _PartedError

    def _matches(self, wide: Record, narrow: Record) -> bool:
        if (
            wide.key != narrow.key
            or wide.numbers != narrow.numbers
            or len(wide.results) != len(narrow.results)
        ):
            return False
        pairs = zip(wide.results, narrow.results, strict=True)
        return all(self._shrunk(before, after) for before, after in pairs)

    def _shrunk(self, before: Seen, after: Seen) -> bool:
        if len(before.shape) != len(after.shape):
            return False
        axes = zip(before.labels, after.labels, before.shape, after.shape, strict=True)
        return all(
            # An axis of length one has no labels, however long it was before.
            was == now if wide is None else self._left_of(wide, narrow, now)
            for wide, narrow, was, now in axes
        )

    def _left_of(self, wide: Ids, narrow: Axis, size: int) -> bool:
        _, expected = self._expected.get(id(wide), (None, None))
        if expected is None:
            expected = survivors(wide, self.alive)
            # The vector is kept with what is left of it, so that its id is never used twice.
            self._expected[id(wide)] = (wide, expected)
        if len(expected) != size:
            # Padding may be as long as it likes; where it meets channels, it shows.
            return bool((wide == UNIFORM).any())
        if narrow is None:
            return size == 1
        return narrow is expected or np.array_equal(expected, narrow) or self._together(
            expected, narrow
        )

    def _together(self, expected: Ids, narrow: Ids) -> bool:
        if (expected == UNIFORM).any():
            return True
        channels = expected >= 0
        return bool(
            np.array_equal(channels, narrow >= 0)
            and np.array_equal(self._of[expected[channels]], self._of[narrow[channels]])
            and np.array_equal(expected[~channels], narrow[~channels])
        )
