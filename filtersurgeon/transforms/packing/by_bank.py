"""Packing kernels that are transforms of a bank: an index, a and b for each, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.closest import closest_linear, transform_members, unit_bank
from filtersurgeon.checkpoint import StoredTensor
from filtersurgeon.checkpoint.tensor import encode
from filtersurgeon.errors import CheckpointError
from filtersurgeon.filters import FilterLayer
from filtersurgeon.transforms.packing.bank_description import FORMS, BankLayer
from filtersurgeon.transforms.packing.exact import exact_coefficients

_CLOSE = 1e-2  # relative error from which on a kernel was never made from the bank


@dataclass(frozen=True)
class BankLayerPacking:
    """The size and the error of one packed layer.

    Attributes:
        name: the module's name.
        bank: the bank's name.
        kernels: number of kernels.
        form: how they are made from the bank; empty for a layer that is left as it is.
        bytes: size of its weight.
        packed_bytes: size of what stands for it, its share of the bank not counted.
    """

    name: str
    bank: str
    kernels: int
    form: str
    bytes: int
    packed_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        return asdict(self)


def bank_rows(bank: FilterBank, kind: str) -> np.ndarray:
    """Give a bank's members ``(K, m)`` as a form needs them; see :class:`Form`."""
    members = bank.kernels.reshape(len(bank), -1)
    return members if kind == "bank" else unit_bank(members, kind == "unit")


def pack_by_bank(layer: FilterLayer, bank: FilterBank) -> tuple[str, dict[str, StoredTensor]]:
    """Find index, a and b of every kernel of a layer.

    Args:
        layer: kernels, each exactly what ``replace`` makes of a member.
        bank: the members.

    Returns:
        The form, and the parts by their names; an empty form where some kernel is no such
        transform.
    """
    kernels = layer.matrix().reshape(-1, prod(layer.kernel_size))
    for name, form in FORMS.items():
        unit = bank_rows(bank, "unit" if form.offset else "length")
        fit = closest_linear(kernels, unit, form.offset)
        lost = np.linalg.norm((fit.kernels - kernels).astype(np.float64), axis=1)
        if (lost > _CLOSE * np.linalg.norm(kernels.astype(np.float64), axis=1)).any():
            continue
        members = bank_rows(bank, form.rows)[fit.choice]
        dtype = layer.stored.dtype
        found = exact_coefficients(kernels, members, dtype, form.scale, form.offset)
        if found.found.all():
            kind = "F64" if dtype == "F64" else "F32"
            parts = {"index": _indices(fit.choice, len(bank))}
            parts |= {"scale": StoredTensor.from_array(found.scale, kind)} if form.scale else {}
            parts |= {"offset": StoredTensor.from_array(found.offset, kind)} if form.offset else {}
            return name, parts
    return "", {}


def restore_by_bank(
    layer: BankLayer, bank: StoredTensor, parts: Mapping[str, StoredTensor]
) -> np.ndarray:
    """Give the bytes of a packed weight, in its own type.

    Raises:
        CheckpointError: the parts do not fit one another.
    """
    size, count = prod(layer.shape[2:]), prod(layer.shape[:2])
    corrupt = CheckpointError(f"layer {layer.name}: its indices do not fit its bank")
    index_type = {"U8": "<u1", "U16": "<u2"}.get(parts["index"].dtype)
    if index_type is None or bank.dtype != "F64" or bank.shape[1:] != (size,):
        raise corrupt
    index = np.frombuffer(parts["index"].raw(), index_type).astype(np.intp)
    numbers = [parts[k].array() if k in parts else np.full(count, fill, np.float32)
               for k, fill in (("scale", 1), ("offset", 0))]  # fmt: skip
    if any(len(each) != count for each in (index, *numbers)) or index.max() >= bank.shape[0]:
        raise corrupt
    kernels = transform_members(bank.array()[index], *numbers)
    return encode(kernels, layer.dtype)


def _indices(choice: np.ndarray, members: int) -> StoredTensor:
    dtype, kind = ("U8", "<u1") if members <= 256 else ("U16", "<u2")
    data = choice.astype(kind).view(np.uint8)
    return StoredTensor.from_bytes(dtype, choice.shape, lambda: data)
