"""What a packed file says of itself, in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.checkpoint import PACKED
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.tensor import COMPUTABLE
from filtersurgeon.errors import CheckpointError, FilterSurgeonError
from filtersurgeon.transforms._fabrication import Draw

SCHEMA = "filtersurgeon.packed/1"
COEFFICIENTS = ("learned", "random")
FREE, GROWTH = 200 << 20, 100
"""Bytes that a layer of random mixtures may take: these, and so many times its archetypes'."""

PARTS = {
    "learned": ("archetypes", "coefficients", "indices", "counts"),
    "random": ("archetypes",),
}
"""Tensors that stand for one packed tensor, each named ``TENSOR.PART``."""


@dataclass(frozen=True)
class PackedLayer:
    """One packed weight.

    Attributes:
        name: the module's name.
        tensor: the weight's name.
        dtype: its element type, before packing and when it is restored.
        shape: its shape, ``(out, in/groups, kh, kw)``.
        error: ``||restored - original|| / ||original||``; 0 for a layer of zeros.
    """

    name: str
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    error: float

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> PackedLayer:
        """Read a stored description; raises an error of Python's when it is none."""
        shape = tuple(item["shape"])
        if len(shape) != 4 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"{list(shape)} is no shape of a convolution's weight")
        if item["dtype"] not in COMPUTABLE:
            raise ValueError(f"type {item['dtype']}")
        name, tensor = str(item["name"]), str(item["tensor"])
        return cls(name, tensor, item["dtype"], shape, float(item["error"]))


@dataclass(frozen=True)
class Packing:
    """What is packed in a file, and how.

    Attributes:
        coefficients: ``learned``, stored sparsely, or ``random``, drawn when they are needed.
        draw: how to draw them; None for learned ones.
        layers: the packed weights.
        order: names of all tensors of the original, in its order.
    """

    coefficients: str
    draw: Draw | None
    layers: tuple[PackedLayer, ...]
    order: tuple[str, ...]

    def to_text(self) -> str:
        """Write it for the file's metadata, in the schema ``filtersurgeon.packed/1``."""
        content = {
            "schema": SCHEMA,
            "coefficients": self.coefficients,
            "draw": self.draw and asdict(self.draw),
            "layers": [asdict(layer) for layer in self.layers],
            "order": self.order,
        }
        return json.dumps(content, sort_keys=True)


def read_packing(checkpoint: Checkpoint) -> Packing | None:
    """Read what a checkpoint says of its packed layers; None if it has none.

    Raises:
        CheckpointError: the description is corrupt, or speaks of other tensors.
    """
    text = checkpoint.annotations.get(PACKED)
    if text is None:
        return None
    try:
        found = _parse(parse_json(text))
        _check_tensors(found, checkpoint)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as problem:
        raise CheckpointError(f"{checkpoint.name} is not packed as it says: {problem}") from None
    except FilterSurgeonError as problem:
        raise CheckpointError(f"{checkpoint.name} is not packed as it says: {problem}") from None
    return found


def _parse(content: Any) -> Packing:
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']!r} instead of {SCHEMA}")
    draw = None if content["coefficients"] == "learned" else Draw(**content["draw"])
    layers = tuple(PackedLayer.from_json(item) for item in content["layers"])
    return Packing(content["coefficients"], draw, layers, tuple(map(str, content["order"])))


def _check_tensors(packing: Packing, checkpoint: Checkpoint) -> None:
    kinds = PARTS[packing.coefficients]
    parts = {f"{layer.tensor}.{part}" for layer in packing.layers for part in kinds}
    packed = {layer.tensor for layer in packing.layers}
    plain = set(checkpoint) - parts
    if not parts <= set(checkpoint) or set(packing.order) != plain | packed or plain & packed:
        raise ValueError("its tensors are not those that it names")
    for layer in packing.layers:
        shape = checkpoint[f"{layer.tensor}.archetypes"].shape
        if shape[1:] != layer.shape[1:] or not shape[0]:
            raise ValueError(f"{layer.tensor}.archetypes has shape {list(shape)}")
        stored = checkpoint[f"{layer.tensor}.archetypes"].nbytes
        wanted = 8 * layer.shape[0] * max(shape[0], prod(layer.shape[1:]))
        if packing.draw and wanted > FREE + GROWTH * stored:
            raise ValueError(f"{shape[0]} archetypes stand for {layer.shape[0]} filters")
