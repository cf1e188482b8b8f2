"""What a file packed by banks says of itself, in its metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.checkpoint import PACKED
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.tensor import COMPUTABLE
from filtersurgeon.errors import CheckpointError

SCHEMA = "filtersurgeon.packed-bank/1"


@dataclass(frozen=True)
class Form:
    """A way in which kernels are made from members.

    Attributes:
        rows: the members: ``unit`` (mean-free, unit norm), ``length`` (unit norm), ``bank`` (as
            they are).
        scale: whether a is stored; else it is 1.
        offset: whether b is stored; else it is 0.
    """

    rows: str
    scale: bool
    offset: bool

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors that stand for a weight, each named ``TENSOR.PART``."""
        return ("index", *["scale"] * self.scale, *["offset"] * self.offset)


FORMS = {
    "shifted": Form("bank", False, True),
    "scaled": Form("length", True, False),
    "linear": Form("unit", True, True),
    "affine": Form("bank", True, True),
}
"""``g + b`` (replace --fold), ``a g`` (--bias drop), ``a g + b`` (replace), and those folded where
some kernels had to keep their scale. Shorter ones are tried first."""


@dataclass(frozen=True)
class BankLayer:
    """One packed weight.

    Attributes:
        name: the module's name.
        tensor: the weight's name.
        dtype: its element type.
        shape: its shape, ``(out, in/groups, kh, kw)``.
        form: how its kernels are made, a key of ``FORMS``.
        bank: the tensor that holds the members ``(K, kh * kw)``.
    """

    name: str
    tensor: str
    dtype: str
    shape: tuple[int, ...]
    form: str
    bank: str

    @property
    def part_names(self) -> dict[str, str]:
        """The tensors that stand for the weight: part -> name in the file."""
        return {part: f"{self.tensor}.{part}" for part in FORMS[self.form].parts}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> BankLayer:
        """Read a stored description; raises KeyError, TypeError or ValueError when it is none."""
        shape = tuple(item["shape"])
        if len(shape) != 4 or not all(type(n) is int and n > 0 for n in shape):
            raise ValueError(f"{list(shape)} is no shape of a convolution's weight")
        if item["dtype"] not in COMPUTABLE or item["form"] not in FORMS:
            raise ValueError(f"type {item['dtype']}, form {item['form']!r}")
        name, tensor, bank = (str(item[key]) for key in ("name", "tensor", "bank"))
        return cls(name, tensor, item["dtype"], shape, item["form"], bank)


@dataclass(frozen=True)
class BankPacking:
    """What is packed in a file.

    Attributes:
        layers: the packed weights.
        order: names of all tensors of the original, in its order.
    """

    coefficients: ClassVar[str] = "bank"
    layers: tuple[BankLayer, ...]
    order: tuple[str, ...]

    def to_text(self) -> str:
        """Write it for the file's metadata, in the schema ``filtersurgeon.packed-bank/1``."""
        content = {
            "schema": SCHEMA,
            "layers": [asdict(layer) for layer in self.layers],
            "order": self.order,
        }
        return json.dumps(content, sort_keys=True)


def is_packed_by_bank(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint says that it is packed by banks."""
    try:
        content = parse_json(checkpoint.annotations.get(PACKED, "null"))
    except ValueError:
        return False
    return isinstance(content, dict) and content.get("schema") == SCHEMA


def read_bank_packing(checkpoint: Checkpoint) -> BankPacking:
    """Read what a checkpoint that is packed by banks says of its layers.

    Raises:
        CheckpointError: the description is corrupt, or speaks of other tensors.
    """
    try:
        content = parse_json(checkpoint.annotations[PACKED])
        layers = tuple(BankLayer.from_json(item) for item in content["layers"])
        found = BankPacking(layers, tuple(map(str, content["order"])))
        _check_tensors(found, checkpoint)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise CheckpointError(f"{checkpoint.name} is not packed as it says: {problem}") from None
    return found


def _check_tensors(packing: BankPacking, checkpoint: Checkpoint) -> None:
    parts = {name for layer in packing.layers for name in layer.part_names.values()}
    parts |= {layer.bank for layer in packing.layers}
    packed = {layer.tensor for layer in packing.layers}
    plain = set(checkpoint) - parts
    if not parts <= set(checkpoint) or set(packing.order) != plain | packed or plain & packed:
        raise ValueError("its tensors are not those that it names")
