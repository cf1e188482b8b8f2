"""Set integers that a module keeps in Python, such as the sizes of a split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from filtersurgeon.errors import CheckpointError, near_misses
from filtersurgeon.networks.structure.replay import find_module, resize_constants

LIMIT = 2**31


def set(model: nn.Module, *, module: str, values: Mapping[str, Any]) -> None:
    """Give attributes of a module other values of the same kind.

    Only attributes that the module has in Python already, and that hold an integer or a list or
    tuple of integers, may be set, to integers from zero to 2**31 - 1. Buffers that repeat one
    constant for every channel, such as the filters of a blur pool, follow the module's
    ``channels``.

    Args:
        model: the network, changed in place.
        module: dotted name of the module; empty for the network itself.
        values: attribute -> integer, or list of integers.

    Raises:
        CheckpointError: an attribute that the module does not have, or an unsuitable value.
    """
    found = find_module(model, module)
    if not isinstance(values, Mapping):
        raise CheckpointError(f"the structure's values for {module!r} are not an object")
    for name, value in values.items():
        old = _old_value(found, module, name)
        new = _like(old, value, f"{module}.{name}")
        setattr(found, name, new)
        if name == "channels" and isinstance(old, int) and isinstance(new, int):
            resize_constants(found, old, new)


def _old_value(found: nn.Module, module: str, name: str) -> Any:
    """Give a plain attribute that may be set: no property, no method, nothing of Python's own."""
    plain = {
        key: value
        for key, value in vars(found).items()
        if not key.startswith("__") and _is_settable(value)
    }
    if name not in plain:
        raise CheckpointError(
            f"the structure sets {name!r} of {module!r}, which keeps no integers of that name"
            f"{near_misses(name, plain)}"
        )
    return plain[name]


def _is_settable(value: object) -> bool:
    """Tell whether a value is an integer or a plain list or tuple of them."""
    if type(value) in (list, tuple):
        return bool(value) and all(type(item) is int for item in value)  # type: ignore[attr-defined]
    return type(value) is int


def _like(old: Any, value: object, place: str) -> Any:
    """Turn a value of the structure into the kind of the old one."""
    expected = "an integer" if isinstance(old, int) else "a list of integers"
    if isinstance(old, int) == isinstance(value, list):
        raise CheckpointError(f"the structure's value for {place} should be {expected}")
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(type(number) is int and 0 <= number < LIMIT for number in numbers):
        raise CheckpointError(
            f"the structure's value for {place} should be {expected} from 0 to {LIMIT - 1}"
        )
    return numbers[0] if isinstance(old, int) else type(old)(numbers)
