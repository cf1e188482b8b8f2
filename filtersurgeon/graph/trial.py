"""The trial of a cut: the narrow network must do, operator by operator, what is expected of it.

Shapes alone do not show that the channels that are left meet the right weights; labels do. The
network is run again in its narrow form, its tensors labelled as what they are left of, and after
every operator the labels must be those of the first run without the removed ones. Where a network
holds a number of channels in Python, the two runs part, and the operator where they do is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.graph.groups import Groups, Mask, survivors
from filtersurgeon.graph.labels import UNIFORM, Axis, Ids, Labels
from filtersurgeon.graph.record import Key, Record, Seen, Trace
from filtersurgeon.graph.tracer import buffers, every_module, parameters, trace
from filtersurgeon.networks.mirrors import mirror


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
    with narrowed(network, wide.slots, trial.remaining, settings) as slots:
        try:
            trace(network, image, modes=modes, slots=slots, rerun=trial)
        except _DoneError:
            return None
        except Exception:
            # Also whatever a network's own code raises when it is given fewer channels.
            return min(trial.done, last)
    return None if trial.done > last and wide.complete else min(trial.done, last)


class _Trial:
    """Compares a narrow run with the wide one."""

    def __init__(self, wide: Trace, groups: Groups, alive: Mask) -> None:
        self.done = 0
        self.remaining = Remaining(alive)
        self._wide = wide
        self._of = groups.of
        # What is left of tensors of the wide run, by the id of what its records hold of them.
        self._known: dict[int, tuple[Sequence[int], Labels]] = {}

    @property
    def prescribed(self) -> Record | None:
        """The record of the next operator in the wide run."""
        records = self._wide.records
        return records[self.done] if self.done < len(records) else None

    def foresee(
        self,
        key: Key,
        rest: list[Any],
        inputs: Sequence[tuple[Tensor, Labels]],
        results: Sequence[Tensor],
    ) -> list[Labels] | None:
        """Tell the labels of the results of a natural operator without its rule.

        It was called alike in the wide run, and here with exactly what is left of the same
        arguments, so that its rule can only give what is left of the same results. This spares a
        third of the time of the run of DenseNet-121; whatever is not as plain goes by its rule.
        """
        wide = self.prescribed
        if wide is None or wide.key != key or wide.rest != rest:
            return None
        if (len(wide.inputs), len(wide.results)) != (len(inputs), len(results)):
            return None
        for seen, (tensor, labels) in zip(wide.inputs, inputs, strict=True):
            expected = self._plainly_left(seen, tensor)
            if expected is None or not all(map(is_, labels, expected)):
                return None
        settled = []
        for seen, tensor in zip(wide.results, results, strict=True):
            expected = self._plainly_left(seen, tensor)
            if expected is None:
                return None
            settled.append(expected)
        self._go_on()
        return settled

    def watch(self, record: Record) -> list[Labels]:
        """Compare an operator with the same one of the wide run.

        Returns:
            The labels that its results go on with: those expected of them, so that an axis with
            one channel left, which tells nothing, is not mistaken.
        """
        wide = self.prescribed
        if (
            wide is None
            or wide.key != record.key
            or wide.numbers != record.numbers
            or len(wide.results) != len(record.results)
        ):
            raise _PartedError
        settled = [self._shrunk(b, a) for b, a in zip(wide.results, record.results, strict=True)]
        self._go_on()
        return settled

    def _plainly_left(self, before: Seen, tensor: Tensor) -> Labels | None:
        """Give the labels that are left of a wide tensor; None where it is not plain.

        It is if the narrow one has as many channels as are left, more than one, and nothing else
        along an axis that has any.
        """
        shape = tensor.shape
        known = self._known.get(id(before))
        if known is not None:
            return known[1] if known[0] == shape else None
        if len(before.shape) != len(shape) or not (shape or tensor.is_meta):
            return None
        found: list[Axis] = []
        for was, now, wide in zip(before.shape, shape, before.labels, strict=True):
            left = None if wide is None else self.remaining.of(wide)
            if now != (was if left is None else len(left)):
                return None
            if wide is not None and (now == 1 or not self._wide.ledger.all_channels(wide)):
                return None
            found.append(left)
        self._known[id(before)] = shape, tuple(found)
        return self._known[id(before)][1]

    def _go_on(self) -> None:
        self.done += 1
        if self.done == len(self._wide.records) and not self._wide.complete:
            raise _DoneError

    def loose(self, one: Ids, other: Ids) -> None:
        """Check that labels belong together which meet where padding makes room for either."""
        if not np.array_equal(self._of[one], self._of[other]):
            raise _PartedError

    def _shrunk(self, before: Seen, after: Seen) -> Labels:
        if len(before.shape) != len(after.shape):
            raise _PartedError
        axes = zip(before.labels, after.labels, before.shape, after.shape, strict=True)
        return tuple(self._left_of(*axis) for axis in axes)

    def _left_of(self, wide: Axis, narrow: Axis, was: int, now: int) -> Axis:
        if wide is None:
            if was != now:
                raise _PartedError
            return None
        expected = self.remaining.of(wide)
        if len(expected) != now:
            # Padding may be as long as it likes; where it meets channels, it shows.
            if (wide == UNIFORM).any():
                return narrow
            raise _PartedError
        if narrow is expected:
            return expected
        if narrow is None:
            if now != 1:
                raise _PartedError
            return expected
        if (wide == UNIFORM).any():
            return narrow
        if not (np.array_equal(expected, narrow) or self._together(expected, narrow)):
            raise _PartedError
        return expected

    def _together(self, expected: Ids, narrow: Ids) -> bool:
        channels = expected >= 0
        return bool(
            np.array_equal(channels, narrow >= 0)
            and np.array_equal(self._of[expected[channels]], self._of[narrow[channels]])
            and np.array_equal(expected[~channels], narrow[~channels])
        )


Settings = Mapping[str, Mapping[str, Any]]
"""Name of a module -> attribute -> the number, or numbers, that it is to hold."""


class Remaining:
    """What is left of vectors of labels; a vector is worked on once.

    Args:
        alive: label -> whether it is left.
    """

    def __init__(self, alive: Mask) -> None:
        self._alive = alive
        self._left = np.flatnonzero(alive)
        self._before = np.concatenate([[0], np.cumsum(alive)])
        # Vectors are kept with what is left of them, so that their ids are never used twice.
        self._known: dict[int, tuple[Ids, Ids]] = {}

    def of(self, ids: Ids) -> Ids:
        """Give the labels that are left; what is no channel stays."""
        found = self._known.get(id(ids))
        if found is None:
            found = self._known[id(ids)] = (ids, survivors(ids, self._alive))
        return found[1]

    def of_slot(self, labels: Labels) -> Labels:
        """Give the labels that are left of a tensor of the network, whose own ones they are."""
        return tuple(None if ids is None else self._of_range(ids) for ids in labels)

    def _of_range(self, ids: Ids) -> Ids:
        # Labels are given to tensors in the order of the numbers, so that no one needs a look.
        first = int(ids[0])
        start, stop = self._before[first], self._before[first + len(ids)]
        left = ids if stop - start == len(ids) else self._left[start:stop]
        self._known[id(ids)] = (ids, left)
        return left


@contextmanager
def narrowed(
    network: nn.Module, slots: Mapping[str, Labels], remaining: Remaining, settings: Settings
) -> Iterator[dict[str, Labels]]:
    """Give a network the shapes that it has with some channels removed.

    Args:
        network: put back as it was in the end.
        slots: name of a tensor -> its labels.
        remaining: gives the labels that are left.
        settings: what modules hold in Python.

    Yields:
        The labels that its tensors have then.
    """
    left = {name: remaining.of_slot(labels) for name, labels in slots.items()}
    modules = every_module(network)
    narrow = _narrow_tensors(modules, slots, left)
    undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for path, module in modules:
            stated = settings.get(path, {})
            before = _narrow_own(module, narrow, undo)
            if before or stated:
                undo.append((vars(module), dict(vars(module))))
                vars(module).update(stated)
            if before:
                mirror(module, before, stated)
        yield left
    finally:
        for holder, was in reversed(undo):
            holder.clear()
            holder.update(was)


def _narrow_tensors(
    modules: list[tuple[str, nn.Module]],
    slots: Mapping[str, Labels],
    left: Mapping[str, Labels],
) -> dict[int, Tensor]:
    """Make tensors without data for those that lose channels, by the id of the one they are for."""
    learned = dict(parameters(modules))
    own = {**dict(buffers(modules)), **learned}
    narrow: dict[int, Tensor] = {}
    for name, labels in slots.items():
        after = left[name]
        # What loses nothing keeps its vectors of labels.
        if all(one is other for one, other in zip(labels, after, strict=True)):
            continue
        tensor = own[name]
        axes = zip(tensor.shape, after, strict=True)
        shape = [size if ids is None else len(ids) for size, ids in axes]
        made = torch.empty(shape, dtype=tensor.dtype, device="meta")
        narrow[id(tensor)] = nn.Parameter(made, False) if name in learned else made
    return narrow


def _narrow_own(
    module: nn.Module,
    narrow: Mapping[int, Tensor],
    undo: list[tuple[dict[str, Any], dict[str, Any]]],
) -> dict[str, tuple[int, ...]]:
    """Exchange a module's tensors; give the shapes that they had."""
    before = {}
    holders: list[dict[str, Any]] = [module._parameters, module._buffers]
    for holder in holders:
        changed = {k: t for k, t in holder.items() if t is not None and id(t) in narrow}
        if changed:
            undo.append((holder, dict(holder)))
            for name, tensor in changed.items():
                before[name] = tuple(tensor.shape)
                holder[name] = narrow[id(tensor)]
    return before
