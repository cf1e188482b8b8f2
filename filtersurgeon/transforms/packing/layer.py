"""One layer: from filters to archetypes and coefficients, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

import numpy as np

from filtersurgeon.archetypes import Archetypes
from filtersurgeon.checkpoint import StoredTensor
from filtersurgeon.checkpoint.tensor import decode, encode
from filtersurgeon.errors import CheckpointError
from filtersurgeon.filters import FilterLayer
from filtersurgeon.transforms._fabrication import Draw, rounded
from filtersurgeon.transforms.packing.description import PackedLayer

Parts = Mapping[str, StoredTensor]
_UNSIGNED = {"U8": "<u1", "U16": "<u2", "U32": "<u4"}


@dataclass(frozen=True)
class LayerPacking:
    """The size and the error of one packed layer.

    Attributes:
        name: the module's name.
        filters: number of filters N.
        archetypes: number of archetypes d.
        bytes: size of its weight.
        packed_bytes: size of what stands for it.
        error: ``||restored - original|| / ||original||``.
        energy: ``||original||^2``.
    """

    name: str
    filters: int
    archetypes: int
    bytes: int
    packed_bytes: int
    error: float
    energy: float

    @property
    def shrinks(self) -> bool:
        """Whether packing makes it smaller; other layers are left as they are."""
        return self.packed_bytes < self.bytes

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        return {**asdict(self), "packed": self.shrinks}


def pack_layer(
    layer: FilterLayer, model: Archetypes, draw: Draw | None, half: bool
) -> tuple[LayerPacking, PackedLayer, dict[str, StoredTensor]]:
    """Store a layer as archetypes.

    Args:
        layer: N filters.
        model: its archetypes.
        draw: how coefficients will be drawn; None stores the learned ones.
        half: store numbers in half precision.

    Returns:
        What it costs, the layer's description, and the stored parts by the names of their kinds.

    Raises:
        LayerError: a weight is not finite, or beyond half precision.
    """
    assert model.archetypes is not None
    dtype = "F16" if half and layer.stored.dtype in ("F32", "F64") else layer.stored.dtype
    archetypes = rounded(model.archetypes, dtype, layer.name)
    shape = (model.n_archetypes, *layer.shape[1:])
    parts = {"archetypes": StoredTensor.from_array(archetypes.reshape(shape), dtype)}
    if draw is None:
        parts |= _sparse(model.coefficients, "F16" if half else "F32")
    described = PackedLayer(layer.name, layer.tensor, layer.stored.dtype, layer.shape, 0.0)
    original = layer.matrix().astype(np.float64)
    restored = decode(restore_layer(described, draw, parts), layer.stored.dtype)
    energy = float(np.square(original).sum())
    lost = float(np.square(restored.reshape(original.shape) - original).sum())
    error = (lost / energy) ** 0.5 if energy else 0.0
    cost = LayerPacking(
        layer.name, layer.n_filters, model.n_archetypes, layer.stored.nbytes,
        sum(part.nbytes for part in parts.values()), error, energy,
    )  # fmt: skip
    return cost, replace(described, error=error), parts


def restore_layer(layer: PackedLayer, draw: Draw | None, parts: Parts) -> np.ndarray:
    """Give the bytes of a packed weight, in its own type.

    Raises:
        CheckpointError: the parts do not fit one another.
    """
    stored = parts["archetypes"]
    with np.errstate(invalid="ignore"):
        found = stored.array().astype(np.float64)
    if not np.isfinite(found).all():
        raise CheckpointError(f"layer {layer.name}: its archetypes are NaN or infinite")
    archetypes = found.reshape(stored.shape[0], prod(layer.shape[1:]))
    if draw is None:
        filters = _mix(layer, archetypes, parts)
    else:
        filters = draw.coefficients(layer.name, layer.shape[0], len(archetypes)) @ archetypes
    return encode(filters, layer.dtype)


def _sparse(coefficients: np.ndarray, dtype: str) -> dict[str, StoredTensor]:
    """Store A ``(d, N)`` filter by filter: values, archetypes, and how many of them each has."""
    values = rounded(coefficients.T, dtype, "")
    filters, indices = np.nonzero(values)
    counts = np.bincount(filters, minlength=len(values))
    return {
        "coefficients": StoredTensor.from_array(values[filters, indices], dtype),
        "indices": _whole(indices, len(coefficients) - 1),
        "counts": _whole(counts, int(counts.max())),
    }


def _whole(numbers: np.ndarray, greatest: int) -> StoredTensor:
    """Store whole numbers in the smallest type that holds the greatest that there can be."""
    dtype = next(name for name, kind in _UNSIGNED.items() if greatest <= np.iinfo(kind).max)
    data = numbers.astype(_UNSIGNED[dtype]).view(np.uint8)
    return StoredTensor.from_bytes(dtype, numbers.shape, lambda: data)


def _mix(layer: PackedLayer, archetypes: np.ndarray, parts: Parts) -> np.ndarray:
    from scipy.sparse import csr_array

    corrupt = CheckpointError(f"layer {layer.name}: its coefficients do not fit its archetypes")
    whole = [parts["indices"], parts["counts"]]
    if any(part.dtype not in _UNSIGNED for part in whole):
        raise corrupt
    indices, counts = (
        np.frombuffer(part.raw(), _UNSIGNED[part.dtype]).astype(np.int64) for part in whole
    )
    values = parts["coefficients"].array().astype(np.float64).ravel()
    ends = np.concatenate([[0], np.cumsum(counts)])
    shape = (layer.shape[0], len(archetypes))
    if len(counts) != shape[0] or not ends[-1] == len(indices) == len(values) or not len(indices):
        raise corrupt
    if indices.max() >= shape[1] or not counts.all() or not np.isfinite(values).all():
        raise corrupt
    # Rounded coefficients no longer add up to one.
    sums = np.add.reduceat(values, ends[:-1])
    if (values < 0).any() or (sums <= 0).any():
        raise corrupt
    mixed: np.ndarray = csr_array((values, indices, ends), shape) @ archetypes
    return mixed / sums[:, None]
