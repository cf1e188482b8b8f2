"""The tensors in what a network returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor

from filtersurgeon.errors import GraphError


def output_tensors(outputs: Any) -> Iterator[Tensor]:
    """Find every tensor in what a network returns, however deep in lists, dicts and dataclasses.

    Raises:
        GraphError: it returns an object that may hold tensors in a way that is not known.
    """
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for item in outputs.values():
            yield from output_tensors(item)
    elif isinstance(outputs, list | tuple):
        for item in outputs:
            yield from output_tensors(item)
    elif is_dataclass(outputs):
        for field in fields(outputs):
            yield from output_tensors(getattr(outputs, field.name))
    elif outputs is not None and not isinstance(outputs, bool | int | float | str):
        raise GraphError(
            f"cannot tell the outputs of this network in the {type(outputs).__name__} that it "
            "returns; return tensors, or lists or dicts of them"
        )
