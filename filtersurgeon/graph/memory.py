"""What a network remembers between runs, such as biases that it looks up once per device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from filtersurgeon.graph.inventory import every_module

_HOOKS = frozenset(vars(nn.Module())) - {"_buffers", "_parameters"}

_CONTAINERS = (dict, list)


@contextmanager
def forgotten(network: nn.Module) -> Iterator[None]:
    """Undo what a network's modules note down in their attributes while it runs.

    A tensor remembered from one run would be met without labels in the next.
    """
    before = [(vars(module), dict(vars(module))) for _, module in every_module(network)]
    contents: list[tuple[Any, Any]] = [
        (value, value.copy())
        for _, attributes in before
        for name, value in attributes.items()
        if type(value) in _CONTAINERS and name not in _HOOKS
    ]
    try:
        yield
    finally:
        for holder, was in before:
            holder.clear()
            holder.update(was)
        for container, content in contents:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)
