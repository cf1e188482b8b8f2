"""The trial of a cut: run the pruned network and compare its labels with the original trace.

Shapes alone do not show that the kept channels meet the right weights; labels do. The network is
traced again in its pruned form, its tensors with the labels that they keep, and after every
operator the labels must be those of the original run without the removed ones. Where a network
holds a number of channels in Python, the two runs differ; the first such operator is the result.
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
from filtersurgeon.graph.positions import renumber, take
from filtersurgeon.graph.record import Key, Record, Seen, Trace
from filtersurgeon.graph.tracer import buffers, every_module, parameters, trace
from filtersurgeon.networks.resizing import mirror


class _MismatchError(Exception):
    """The pruned run is no longer the original one with fewer channels."""


class _DoneError(Exception):
    """Every operator of the original run has been repeated."""


def first_mismatch(
    network: nn.Module,
    image: Tensor,
    original: Trace,
    groups: Groups,
    keep: Mask,
    settings: Settings,
    modes: Mapping[Key, int],
) -> int | None:
    """Run a network in its pruned form and find the operator where it goes wrong.

    Args:
        network: in its original form; left as it is.
        image: as for :func:`~filtersurgeon.graph.tracer.trace`.
        original: the trace of the original network, or of its first operators.
        groups: the groups of that trace.
        keep: group -> whether it is kept.
        settings: what modules hold in Python in the pruned form.
        modes: as for the original trace.

    Returns:
        The number of the operator, or None if the whole run is as expected.
    """
    trial = _Trial(original, groups, keep[groups.of])
    last = len(original.records) - 1
    values = [read.value for read in original.reads] or None
    with prune_temporarily(network, original, trial.remaining, settings) as slots:
        try:
            trace(network, image, modes=modes, slots=slots, rerun=trial, values=values)
        except Exception:
            # Also whatever a network's own code raises when it is given fewer channels, and what
            # TorchScript raises in the place of other exceptions.
            return None if trial.finished else min(trial.done, last)
    return None if trial.done > last and original.complete else min(trial.done, last)


class _Trial:
    """Compares a pruned run with the original one."""

    def __init__(self, original: Trace, groups: Groups, alive: Mask) -> None:
        self.done = 0
        self.finished = False
        self.remaining = Remaining(alive)
        self._original = original
        self._of = groups.of
        # The labels kept of tensors of the original run, by the id of their entries in its records.
        self._known: dict[int, tuple[Sequence[int], Labels]] = {}

    @property
    def prescribed(self) -> Record | None:
        """The record of the next operator in the original run."""
        records = self._original.records
        return records[self.done] if self.done < len(records) else None

    def foresee(
        self,
        key: Key,
        rest: list[Any],
        inputs: Sequence[tuple[Tensor, Labels]],
        results: Sequence[Tensor],
    ) -> list[Labels] | None:
        """Tell the labels of the results of an equivariant operator without its rule.

        It was called alike in the original run, and here with exactly what is left of the same
        arguments, so that its rule can only give what is left of the same results. This spares a
        third of the time of the run of DenseNet-121; whatever is not as plain goes by its rule.
        """
        original = self.prescribed
        if original is None or original.key != key or original.rest != rest:
            return None
        if (len(original.inputs), len(original.results)) != (len(inputs), len(results)):
            return None
        for seen, (tensor, labels) in zip(original.inputs, inputs, strict=True):
            expected = self._kept_labels(seen, tensor)
            if expected is None or not all(map(is_, labels, expected)):
                return None
        settled = []
        for seen, tensor in zip(original.results, results, strict=True):
            expected = self._kept_labels(seen, tensor)
            if expected is None:
                return None
            settled.append(expected)
        self._go_on()
        return settled

    def watch(self, record: Record) -> list[Labels]:
        """Compare an operator with the same one of the original run.

        Returns:
            The labels that its results go on with: those expected of them, so that an axis with
            one channel left, which tells nothing, is not mistaken.
        """
        original = self.prescribed
        if (
            original is None
            or original.key != record.key
            or original.numbers != record.numbers
            or len(original.results) != len(record.results)
        ):
            raise _MismatchError
        settled = [
            self._settle(b, a) for b, a in zip(original.results, record.results, strict=True)
        ]
        self._go_on()
        return settled

    def _kept_labels(self, before: Seen, tensor: Tensor) -> Labels | None:
        """Give the labels that are kept of an original tensor; None where it is not plain.

        It is if the pruned one has as many channels as are kept, more than one, and nothing else
        along an axis that has any.
        """
        shape = tensor.shape
        known = self._known.get(id(before))
        if known is not None:
            return known[1] if known[0] == shape else None
        if len(before.shape) != len(shape) or not (shape or tensor.is_meta):
            return None
        found: list[Axis] = []
        for was, now, original in zip(before.shape, shape, before.labels, strict=True):
            kept = None if original is None else self.remaining.of(original)
            if now != (was if kept is None else len(kept)):
                return None
            if original is not None and (
                now == 1 or not self._original.constraints.all_channels(original)
            ):
                return None
            found.append(kept)
        self._known[id(before)] = shape, tuple(found)
        return self._known[id(before)][1]

    def _go_on(self) -> None:
        self.done += 1
        if self.done == len(self._original.records) and not self._original.complete:
            self.finished = True
            raise _DoneError

    def loose(self, one: Ids, other: Ids) -> None:
        """Check that labels belong together which meet where padding makes room for either."""
        if not np.array_equal(self._of[one], self._of[other]):
            raise _MismatchError

    def _settle(self, before: Seen, after: Seen) -> Labels:
        if len(before.shape) != len(after.shape):
            raise _MismatchError
        axes = zip(before.labels, after.labels, before.shape, after.shape, strict=True)
        return tuple(self._settle_axis(*axis) for axis in axes)

    def _settle_axis(self, original: Axis, pruned: Axis, was: int, now: int) -> Axis:
        if original is None:
            if was != now:
                raise _MismatchError
            return None
        expected = self.remaining.of(original)
        if len(expected) != now:
            # Padding may be as long as it likes; where it meets channels, it shows.
            if (original == UNIFORM).any():
                return pruned
            raise _MismatchError
        if pruned is expected:
            return expected
        if pruned is None:
            if now != 1:
                raise _MismatchError
            return expected
        if (original == UNIFORM).any():
            return pruned
        if not (np.array_equal(expected, pruned) or self._together(expected, pruned)):
            raise _MismatchError
        return expected

    def _together(self, expected: Ids, pruned: Ids) -> bool:
        channels = expected >= 0
        return bool(
            np.array_equal(channels, pruned >= 0)
            and np.array_equal(self._of[expected[channels]], self._of[pruned[channels]])
            and np.array_equal(expected[~channels], pruned[~channels])
        )


Settings = Mapping[str, Mapping[str, Any]]
"""Name of a module -> attribute -> the number, or numbers, that it is to hold."""


class Remaining:
    """Removes labels from vectors; the result for a vector is computed once.

    Args:
        alive: label -> whether it is kept.
    """

    def __init__(self, alive: Mask) -> None:
        self.alive = alive
        self._kept = np.flatnonzero(alive)
        self._before = np.concatenate([[0], np.cumsum(alive)])
        # Vectors are stored with the result, so that their ids are never used twice.
        self._known: dict[int, tuple[Ids, Ids]] = {}

    def of(self, ids: Ids) -> Ids:
        """Give the labels that are kept; what is no channel stays."""
        found = self._known.get(id(ids))
        if found is None:
            found = self._known[id(ids)] = (ids, survivors(ids, self.alive))
        return found[1]

    def of_slot(self, labels: Labels) -> Labels:
        """Give the labels that are kept of a tensor of the network, whose own ones they are."""
        return tuple(None if ids is None else self._of_range(ids) for ids in labels)

    def kept_indices(self, labels: Labels) -> dict[int, Ids]:
        """Give the indices that are kept, by axis, of a tensor of the network."""
        return {
            axis: np.flatnonzero((ids < 0) | self.alive[ids])
            for axis, ids in enumerate(labels)
            if ids is not None
        }

    def _of_range(self, ids: Ids) -> Ids:
        # Labels are given to tensors in the order of the numbers, so that no one needs a look.
        first = int(ids[0])
        start, stop = self._before[first], self._before[first + len(ids)]
        kept = ids if stop - start == len(ids) else self._kept[start:stop]
        self._known[id(ids)] = (ids, kept)
        return kept


@contextmanager
def prune_temporarily(
    network: nn.Module, original: Trace, remaining: Remaining, settings: Settings
) -> Iterator[dict[str, Labels]]:
    """Give a network the shapes that it has with some channels removed.

    Args:
        network: put back as it was in the end.
        original: its trace.
        remaining: gives the labels that are kept.
        settings: what modules hold in Python.

    Yields:
        The labels that its tensors have then.
    """
    kept = {name: remaining.of_slot(labels) for name, labels in original.slots.items()}
    modules = every_module(network)
    pruned = _pruned_tensors(modules, original, kept, remaining)
    undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for path, module in modules:
            stated = settings.get(path, {})
            before = _exchange_tensors(module, pruned, undo)
            if before or stated:
                undo.append((vars(module), dict(vars(module))))
                vars(module).update(stated)
            if before:
                mirror(module, before, stated)
        yield kept
    finally:
        for holder, was in reversed(undo):
            holder.clear()
            holder.update(was)


def _pruned_tensors(
    modules: list[tuple[str, nn.Module]],
    original: Trace,
    kept: Mapping[str, Labels],
    remaining: Remaining,
) -> dict[int, Tensor]:
    """Make tensors for those that lose channels, by the id of the one they are for.

    They have no data, but whole numbers and masks, which decide what is picked.
    """
    learned = dict(parameters(modules))
    own = {**dict(buffers(modules)), **learned}
    pruned: dict[int, Tensor] = {}
    for name, labels in original.slots.items():
        after, tensor = kept[name], own[name]
        positions = original.positions.get(name)
        # What loses nothing keeps its vectors of labels.
        same = all(one is other for one, other in zip(labels, after, strict=True))
        if same and positions is None:
            continue
        if not (tensor.is_floating_point() or tensor.is_meta):
            numbers = renumber(tensor, positions, remaining.alive)
            pruned[id(tensor)] = take(numbers, remaining.kept_indices(labels))
            continue
        axes = zip(tensor.shape, after, strict=True)
        shape = [size if ids is None else len(ids) for size, ids in axes]
        made = torch.empty(shape, dtype=tensor.dtype, device="meta")
        pruned[id(tensor)] = nn.Parameter(made, False) if name in learned else made
    return pruned


def _exchange_tensors(
    module: nn.Module,
    pruned: Mapping[int, Tensor],
    undo: list[tuple[dict[str, Any], dict[str, Any]]],
) -> dict[str, tuple[int, ...]]:
    """Exchange a module's tensors; give the shapes that they had."""
    before = {}
    holders: list[dict[str, Any]] = [module._parameters, module._buffers]
    for holder in holders:
        changed = {k: t for k, t in holder.items() if t is not None and id(t) in pruned}
        if changed:
            undo.append((holder, dict(holder)))
            for name, tensor in changed.items():
                # Where a pruned network is built, no shape tells of buffers that are not stored.
                if holder is module._parameters or name not in module._non_persistent_buffers_set:
                    before[name] = tuple(tensor.shape)
                holder[name] = pruned[id(tensor)]
    return before
