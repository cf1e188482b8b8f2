"""Packing a whole network by banks, and restoring it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.matching import load_banks, match_layers
from filtersurgeon.checkpoint import Change, Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.checkpoint import PACKED
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import as_globs, layers_to_analyse
from filtersurgeon.transforms.packing.bank_description import (
    FORMS,
    BankLayer,
    BankPacking,
    read_bank_packing,
)
from filtersurgeon.transforms.packing.by_bank import (
    BankLayerPacking,
    bank_rows,
    pack_by_bank,
    restore_by_bank,
)
from filtersurgeon.transforms.packing.restoring import unpacked

Observer = Callable[[BankLayerPacking], None]


def pack_with_banks(
    checkpoint: Checkpoint,
    banks: str | FilterBank | Sequence[str | FilterBank],
    layers: Iterable[str] | None = None,
    observe: Observer | None = None,
) -> Checkpoint:
    """Store a bank's index and the numbers a and b in place of kernels that are ``a g + b``.

    Every packed tensor is restored bit for bit, or it is not packed. The members are stored once
    per kernel size, so that the file needs nothing else.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024.

    Args:
        checkpoint: a network whose kernels were replaced from the same banks.
        banks: as in ``replace``.
        layers: globs; None takes every spatial convolution.
        observe: told about each layer, also about those that are left as they are.

    Raises:
        CheckpointError: it is packed already.
        LayerError: no layer is made of the banks' members.
        OptionError: unknown banks, or one that no layer takes.
    """
    globs, sources = as_globs(layers), load_banks(banks)
    names = [source.name for source in sources]
    stored = [x for x in layers_to_analyse(checkpoint, globs) if x.stores_kernels]
    for layer in stored:
        layer.check_one_tensor("pack")
    matched = match_layers(sources, stored, checkpoint.name)
    tensors: dict[str, dict[str, StoredTensor]] = {}
    stored_banks: dict[str, StoredTensor] = {}
    described = []
    for layer, bank in matched:
        form, parts = pack_by_bank(layer, bank)
        if observe:
            size = sum(part.nbytes for part in parts.values()) or layer.stored.nbytes
            observe(
                BankLayerPacking(
                    layer.name, bank.name, layer.n_kernels, form, layer.stored.nbytes, size
                )
            )
        if form:
            rows = FORMS[form].rows
            height, width = layer.kernel_size
            name = f"bank.{height}x{width}.{rows}"
            stored_banks[name] = StoredTensor.from_array(bank_rows(bank, rows), "F64")
            packed = BankLayer(
                layer.name, layer.tensor, layer.stored.dtype, layer.shape, form, name
            )
            described.append(packed)
            tensors[layer.tensor] = {packed.part_names[k]: part for k, part in parts.items()}
    if not described:
        raise LayerError(
            f"no layer of {checkpoint.name} is made of transforms of {' or '.join(names)}; "
            "make them with fsurgeon replace and the same `bank` first"
        )
    options: dict[str, Any] = {"bank": names if len(names) > 1 else names[0]}
    if globs:
        options["layers"] = globs
    resources = {k: v for source in sources for k, v in source.resources.items()}
    entry = HistoryEntry("pack", options, resources=resources)
    return _assemble(checkpoint, entry, BankPacking(tuple(described), tuple(checkpoint)), tensors,
                   stored_banks)  # fmt: skip


def _assemble(
    checkpoint: Checkpoint,
    entry: HistoryEntry,
    packing: BankPacking,
    parts: dict[str, dict[str, StoredTensor]],
    banks: dict[str, StoredTensor],
) -> Checkpoint:
    tensors: dict[str, StoredTensor] = {}
    for name in checkpoint:
        tensors |= parts.get(name, {name: checkpoint[name]})
    every = {name for each in parts.values() for name in each} | set(banks)
    taken = sorted(every & set(checkpoint))
    if taken:
        raise LayerError(f"there is a tensor called {taken[0]} already; leave its layer out")
    if sum(t.nbytes for t in (*tensors.values(), *banks.values())) >= checkpoint.nbytes:
        raise LayerError(f"{checkpoint.name} would not get smaller: the bank is too large for it")
    changes = tuple(
        Change(
            layer.tensor,
            layer.shape,
            parts[layer.tensor][layer.part_names["index"]].shape,
            f"index and numbers, {layer.form}",
        )
        for layer in packing.layers
    )
    edited = checkpoint.edited(entry, {}, "").annotated(PACKED, packing.to_text())
    return replace(edited, tensors={**tensors, **banks}, changes=(*checkpoint.changes, *changes))


def unpack_banks(checkpoint: Checkpoint) -> Checkpoint:
    """Restore the kernels of a checkpoint that :func:`pack_with_banks` made, bit for bit.

    Raises:
        CheckpointError: it is corrupt; also later, while reading.
    """
    packing = read_bank_packing(checkpoint)
    restored, changes = {}, []
    for layer in packing.layers:
        parts = {part: checkpoint[name] for part, name in layer.part_names.items()}
        load = partial(restore_by_bank, layer, checkpoint[layer.bank], parts)
        restored[layer.tensor] = StoredTensor.from_bytes(layer.dtype, layer.shape, load)
        why = f"kernels of {layer.bank}, {layer.form}"
        changes.append(Change(layer.tensor, parts["index"].shape, layer.shape, why))
    return unpacked(checkpoint, packing.order, restored, changes)
