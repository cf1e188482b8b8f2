"""A network with fewer channels, for the length of a ``with`` block and without data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from filtersurgeon.checkpoint.mirrors import mirror
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Ids, Labels

Settings = Mapping[str, Mapping[str, Any]]
"""Name of a module -> attribute -> the number, or numbers, that it is to hold."""


def survivors(ids: Ids, alive: Mask) -> Ids:
    """Give the labels of a vector that are left; what is no channel stays."""
    left = alive[ids]
    left |= ids < 0
    return ids if left.all() else ids[left]


def kept(labels: Labels, alive: Mask) -> Labels:
    """Give the labels that are left along every axis."""
    return tuple(None if ids is None else survivors(ids, alive) for ids in labels)


@contextmanager
def narrowed(
    network: nn.Module, slots: Mapping[str, Labels], alive: Mask, settings: Settings
) -> Iterator[dict[str, Labels]]:
    """Give a network the shapes that it has with some channels removed.

    Args:
        network: put back as it was in the end.
        slots: name of a tensor -> its labels.
        alive: label -> whether it is left.
        settings: what modules hold in Python.

    Yields:
        The labels that its tensors have then.
    """
    left = {name: kept(labels, alive) for name, labels in slots.items()}
    narrow = _narrow_tensors(network, slots, left)
    undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for path, module in network.named_modules():
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
    network: nn.Module, slots: Mapping[str, Labels], left: Mapping[str, Labels]
) -> dict[int, Tensor]:
    """Make tensors without data for those that lose channels, by the id of the one they are for."""
    own: dict[str, Tensor] = dict(network.named_buffers())
    own.update(network.named_parameters())
    narrow: dict[int, Tensor] = {}
    for name, labels in slots.items():
        tensor = own[name]
        shape = [
            size if before is None or after is None else size - len(before) + len(after)
            for size, before, after in zip(tensor.shape, labels, left[name], strict=True)
        ]
        if shape != list(tensor.shape):
            made = torch.empty(shape, dtype=tensor.dtype, device="meta")
            is_parameter = isinstance(tensor, nn.Parameter)
            narrow[id(tensor)] = nn.Parameter(made, False) if is_parameter else made
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
