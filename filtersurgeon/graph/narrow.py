"""A network with fewer channels, for the length of a ``with`` block and without data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.inventory import buffers, every_module, parameters
from filtersurgeon.graph.labels import Ids, Labels
from filtersurgeon.networks.mirrors import mirror

Settings = Mapping[str, Mapping[str, Any]]
"""Name of a module -> attribute -> the number, or numbers, that it is to hold."""


def survivors(ids: Ids, alive: Mask) -> Ids:
    """Give the labels of a vector that are left; what is no channel stays."""
    left = alive[ids]
    left |= ids < 0
    return ids if left.all() else ids[left]


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
