"""Remove channels from a network: from its tensors, and from numbers that its modules hold.

``slim`` makes the pruned checkpoint; ``cut_all`` copies the kept indices of its tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.checkpoint import Change
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.checkpoint.weight_parts import find_parts
from filtersurgeon.errors import GraphError
from filtersurgeon.graph.cut_parts import cut_parts
from filtersurgeon.graph.emptied import Standing, stand_in
from filtersurgeon.graph.groups import Mask, survivors
from filtersurgeon.graph.labels import Ids, Labels
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.ops.reduction import scale_of
from filtersurgeon.graph.positions import renumber
from filtersurgeon.graph.tracer import every_module, unstored
from filtersurgeon.graph.trial import Settings
from filtersurgeon.networks.structure.replay import lies_along, repeats

Tensors = Mapping[str, Tensor]

NOTHING: Tensors = MappingProxyType({})

_FOLDED = "folded into the weight"
_UNREAD = "reads or makes no channels"


def slim(
    opened: OpenedModel,
    keep: Mask,
    entry: HistoryEntry,
    changed: Tensors = NOTHING,
    *,
    keep_parts: bool = True,
) -> Checkpoint:
    """Cut all channels out of a checkpoint but those that are kept.

    Where all channels between two convolutions go, constants take the places of both. Weights that
    are stored in parts are written back in these where they hold the pruned weight.

    Args:
        opened: the network.
        keep: group -> whether it is kept.
        entry: the step for the history.
        changed: tensors of the network with other values, in its own, original shapes.
        keep_parts: write weights back in parts at all.

    Raises:
        GraphError: the pruned network would not do what is expected of it; names the layer.
    """
    standing = stand_in(opened, keep)
    keep = standing.keep
    failed = opened.graph.first_mismatch(keep)
    if failed is not None:
        record = opened.graph.trace.records[failed]
        raise GraphError(
            f"layer {record.module}: {record.key[1]} does not take fewer channels; "
            "leave the layers before it out with `layers`"
        )
    pruned = pruned_tensors(opened, keep, changed)
    checkpoint = opened.checkpoint
    constants = _constants(opened, standing, pruned)
    touched = _find_touched(opened.joined, pruned)
    in_parts = _in_parts(opened, keep, pruned, touched) if keep_parts and touched else {}
    joined = [name for name in touched if name not in in_parts]
    plain = _find_touched(opened.folded, pruned)
    edits: list[dict[str, Any]] = [
        *({"edit": "plain-weight", "module": name} for name in joined),
        *({"edit": "plain-convolution", "module": name} for name in plain),
    ]
    if standing.constant:
        names = [layer.name for layer in standing.constant]
        edits.append({"edit": "constant", "modules": names})
    settings = {
        module: values
        for module, values in opened.graph.settings(keep).items()
        if module not in constants
    }
    edits += _cut_unstored(opened, keep, settings)
    for module, values in settings.items():
        edits.append({"edit": "set", "module": module, "values": _as_json(values)})
    gone = dict.fromkeys((f"{name}.gain" for name in plain), _FOLDED)
    gone |= dict.fromkeys((f"{name}.weight" for name in constants), _UNREAD)
    stored = _join_parts(opened, joined) if joined else checkpoint.tensors
    made = {name: from_torch(tensor, name) for name, tensor in pruned.items()}
    made |= {name: tensor for parts in in_parts.values() for name, tensor in parts.items()}
    tensors: dict[str, StoredTensor] = {}
    for name, old in stored.items():
        if name not in gone:
            tensors[name] = made.get(name, old)
        owner = name.rpartition(".")[0]
        if owner in constants:
            tensors[f"{owner}.bias"] = constants[owner]
    return _edit(checkpoint, entry, tensors, made, edits, gone)


def _constants(
    opened: OpenedModel, standing: Standing, pruned: dict[str, Tensor]
) -> dict[str, StoredTensor]:
    """Give the biases of the layers that become constants, and take their weights out."""
    state, found = opened.network.state_dict(), {}
    for layer in standing.constant:
        weight, bias = pruned.pop(layer.tensor, state[layer.tensor]), f"{layer.name}.bias"
        values = pruned.get(bias, state.get(bias, weight.new_zeros(len(weight))))
        found[layer.name] = from_torch(values, bias)
    return found


def _cut_unstored(opened: OpenedModel, keep: Mask, settings: Settings) -> list[dict[str, Any]]:
    """Give the edits of the buffers that are not stored, so that no shape tells their channels.

    Constants that are the same for every channel follow the ``channels`` of their module.
    """
    graph, network = opened.graph, opened.network
    edits: dict[tuple[int, str, int], dict[str, Any]] = {}
    for name in unstored(every_module(network)):
        slots = graph.trace.slots.get(graph.trace.aliases.get(name, name), ())
        module, _, own = name.rpartition(".")
        owner = network.get_submodule(module)
        if "channels" in settings.get(module, {}):
            buffer, channels = network.get_buffer(name), vars(owner)["channels"]
            if lies_along(buffer, channels) and repeats(buffer):
                continue
        for axis, kept in _kept_indices(slots, keep[graph.groups.of]).items():
            cut = {"module": module, "name": own, "axis": axis, "keep": kept.tolist()}
            # A module may stand in several places.
            edits.setdefault((id(owner), own, axis), {"edit": "cut-buffer", **cut})
    return list(edits.values())


def _in_parts(
    opened: OpenedModel, keep: Mask, pruned: Tensors, modules: Sequence[str]
) -> dict[str, dict[str, StoredTensor]]:
    """Write pruned weights in the parts of their modules, for those whose parts hold them."""
    graph, found = opened.graph, {}
    known = find_parts(opened.checkpoint.tensors)
    for module in modules:
        name = f"{module}.weight" if module else "weight"
        if opened.joined[module] != ("weight",) or name not in known or name not in pruned:
            continue
        slots = graph.trace.slots.get(graph.trace.aliases.get(name, name), ())
        kept = _kept_indices(slots, keep[graph.groups.of])
        weights = pruned[name], opened.network.get_parameter(name)
        parts = cut_parts(known[name], kept, *(x.detach().double().numpy() for x in weights))
        if parts is not None:
            found[module] = parts
    return found


def pruned_tensors(
    opened: OpenedModel, keep: Mask, changed: Tensors = NOTHING
) -> dict[str, Tensor]:
    """Give the tensors that differ from the checkpoint's, in their pruned shapes."""
    graph = opened.graph
    alive = keep[graph.groups.of]
    found: dict[str, Tensor] = {}
    cuts: dict[str, tuple[Tensor, Kept]] = {}
    for name, tensor in opened.network.state_dict().items():
        first = graph.trace.aliases.get(name, name)
        tensor = changed.get(name, changed.get(first, tensor))
        kept = _kept_indices(graph.trace.slots.get(first, ()), alive)
        positions = graph.trace.positions.get(first)
        tensor = renumber(tensor, positions, alive)
        if kept:
            cuts[name] = tensor, kept
        if kept or positions is not None or name in changed or first in changed:
            found[name] = tensor
    found |= zip(cuts, cut_all(list(cuts.values())), strict=True)
    for name, factor in average_factors(opened, keep).items():
        found[name] = found[name] * factor
    return found


def _kept_indices(labels: Labels, alive: Mask) -> dict[int, Ids]:
    """Give the indices that are kept of every axis that loses any."""
    kept = {}
    for axis, ids in enumerate(labels):
        if ids is not None:
            indices = np.flatnonzero((ids < 0) | alive[ids])
            if len(indices) < len(ids):
                kept[axis] = indices
    return kept


def average_factors(opened: OpenedModel, keep: Mask) -> dict[str, float]:
    """Give what the scales of averaging modules are multiplied by, by the tensor's name."""
    graph = opened.graph
    alive = keep[graph.groups.of]
    factors = {}
    for record in graph.trace.records:
        for ids in record.averaged:
            module = opened.network.get_submodule(record.module)
            kept = len(survivors(ids, alive))
            if kept < len(ids):
                factors[f"{record.module}.{scale_of(module)}"] = len(ids) / kept
    return factors


def zero_removed(opened: OpenedModel, keep: Mask, changed: Tensors = NOTHING) -> dict[str, Tensor]:
    """Give the network's tensors in their original shapes, with zeros wherever a channel is cut.

    Whole numbers and masks stay, as they are no values of channels.
    """
    graph = opened.graph
    alive = keep[graph.groups.of]
    own: dict[str, Tensor] = dict(opened.network.named_buffers())
    own.update(opened.network.named_parameters())
    found = dict(changed)
    for name, labels in graph.trace.slots.items():
        cuts = [
            (axis, _find_removed(ids, alive)) for axis, ids in enumerate(labels) if ids is not None
        ]
        if own[name].is_floating_point() and any(len(gone) for _, gone in cuts):
            found[name] = found.get(name, own[name]).detach().clone()
            for axis, gone in cuts:
                found[name].index_fill_(axis, torch.from_numpy(gone), 0)
    return found


def _find_removed(ids: Ids, alive: Mask) -> Ids:
    return np.flatnonzero((ids >= 0) & ~alive[ids])


def _find_touched(modules: Iterable[str], pruned: Tensors) -> list[str]:
    """Name those modules of which a tensor is cut or changed, which can no longer stay special."""
    touched = {name.rpartition(".")[0] for name in pruned}
    return sorted(touched.intersection(modules))


def _join_parts(opened: OpenedModel, modules: Sequence[str]) -> dict[str, StoredTensor]:
    """Give the checkpoint's tensors with the parameters of some modules in place of their parts."""
    own = opened.network.state_dict()
    stored = opened.checkpoint.tensors
    ordinary: dict[str, dict[str, StoredTensor]] = {
        module: {
            name: from_torch(tensor, name)
            for name, tensor in own.items()
            if name not in stored and name.rpartition(".")[0] == module
        }
        for module in modules
    }
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        if name in own:
            found[name] = tensor
            continue
        owner = _module_of(name)
        found |= ordinary.get(owner, {name: tensor})
    return found


def _module_of(part: str) -> str:
    """Give the module that a part of a parameter belongs to."""
    before = part.partition("parametrizations.")[0]
    return before.rstrip(".") if before != part else part.rpartition(".")[0]


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def _edit(
    checkpoint: Checkpoint,
    entry: HistoryEntry,
    tensors: Mapping[str, StoredTensor],
    touched: Iterable[str],
    edits: list[dict[str, Any]],
    gone: Mapping[str, str],
) -> Checkpoint:
    same = {name: tensors[name] for name in touched if name in tensors}
    same_names = {name: tensor for name, tensor in same.items() if name in checkpoint}
    edited = checkpoint.edited(entry, same_names, "channels removed")
    changes = tuple(
        Change(name, checkpoint[name].shape, (), gone.get(name, _FOLDED))
        for name in checkpoint.tensors
        if name not in tensors
    )
    return replace(
        edited,
        tensors=dict(tensors),
        structure=(*checkpoint.structure, *edits),
        changes=(*edited.changes, *changes),
    )


_WORDS = {
    1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128,
}  # fmt: skip
"""Types that NumPy has, by their bytes: it has no bfloat16, but a copy needs only the size."""

_BLOCK = 1 << 16
"""Elements that are copied in one go: they stay in the cache between the two axes."""

_ALIGNMENT = 64

Words = NDArray[Any]
Kept = Mapping[int, Ids]

_RUN = 8
"""From so many neighbouring elements on, it is faster to fetch every run by its own index."""


class Room:
    """One stretch of memory for the tensors of a cut.

    NumPy asks for huge pages for it; ResNet-50's tensors each by themselves take a third more time,
    as every small page of theirs has to be fetched.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._bytes = np.empty(size, np.uint8)
        self._used = 0

    @staticmethod
    def needed(size: int) -> int:
        """Give the bytes that an array of a size takes up here, so that every one is aligned."""
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def take(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Words:
        """Give an array that nothing is written into yet."""
        size = prod(shape) * dtype.itemsize
        start, self._used = self._used, self._used + self.needed(size)
        return self._bytes[start : start + size].view(dtype).reshape(shape)


def cut_all(cuts: Sequence[tuple[Tensor, Kept]]) -> list[Tensor]:
    """Copy the indices that are kept of tensors.

    NumPy copies on one thread; VGG-16 takes a third of the CPU time that ``index_select`` takes
    for one axis after the other.

    Args:
        cuts: tensors of any types, each with the indices that are kept, ascending, by axis.
    """
    shapes = [
        [len(kept.get(axis, range(size))) for axis, size in enumerate(tensor.shape)]
        for tensor, kept in cuts
    ]
    sizes = (prod(s) * t.element_size() for (t, _), s in zip(cuts, shapes, strict=True))
    room = Room(sum(map(Room.needed, sizes)))
    return [_cut(tensor, kept, room) for tensor, kept in cuts]


def _cut(tensor: Tensor, kept: Kept, room: Room) -> Tensor:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    words = plain.view(_WORDS[plain.element_size()]).numpy()
    if kept.keys() == {0, 1}:
        return torch.from_numpy(_cut_table(words, kept[0], kept[1], room)).view(tensor.dtype)
    *others, last = kept
    for axis in others:
        words = words.take(kept[axis], axis)
    shape = (*words.shape[:last], len(kept[last]), *words.shape[last + 1 :])
    # Without "clip", NumPy fills a buffer first.
    made = words.take(kept[last], last, out=room.take(shape, words.dtype), mode="clip")
    return torch.from_numpy(made).view(tensor.dtype)


def _cut_table(words: Words, rows: Ids, columns: Ids, room: Room) -> Words:
    """Copy the kept indices of the first two axes, reading nothing else.

    Args:
        words: (rows, columns, ...).
        rows: the rows that are kept.
        columns: the columns that are kept.
        room: memory.
    """
    shape = (len(rows), len(columns), *words.shape[2:])
    table = words.reshape(*words.shape[:2], -1)
    if words.ndim == 2:
        # The columns of a linear layer after a flattening go by whole channels.
        together = _unit(columns, words.shape[1])
        table = words.reshape(len(words), -1, together)
        columns = columns[::together] // together
    _, width, run = table.shape
    made = room.take((len(rows), len(columns), run), words.dtype)
    step = max(1, _BLOCK // max(1, width * run))
    for start in range(0, len(rows), step):
        some, part = rows[start : start + step], made[start : start + step]
        if run < _RUN:
            table.take(some, 0, mode="clip").take(columns, 1, out=part, mode="clip")
        else:
            runs = (some[:, None] * width + columns).ravel()
            table.reshape(-1, run).take(runs, 0, out=part.reshape(-1, run), mode="clip")
    return made.reshape(shape)


def _unit(indices: Ids, length: int) -> int:
    """Give the largest number in whose multiples all stretches of indices begin and end.

    Args:
        indices: ascending.
        length: of the axis, a multiple too.
    """
    edges = np.flatnonzero(np.diff(indices) != 1)
    ends = indices[edges] + 1, indices[edges + 1], indices[:1], indices[-1:] + 1
    return int(np.gcd.reduce(np.concatenate([*ends, [length]])))
