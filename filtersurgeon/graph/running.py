"""Which module is running while a network is traced."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from filtersurgeon.graph.inventory import every_module


@dataclass(frozen=True, slots=True)
class Running:
    """A module that is running.

    Attributes:
        name: its name.
        kind: its class's name.
        owner: class of the innermost module around it whose code is not torch's own.
        calls: how often that module has called each operator, itself or through torch's.
    """

    name: str
    kind: str
    owner: str
    calls: dict[str, int]


def outermost(network: nn.Module) -> Running:
    """Describe the network itself."""
    kind = type(network).__name__
    return Running("", kind, kind, {})


@contextmanager
def followed(network: nn.Module, stack: list[Running]) -> Iterator[None]:
    """Keep a stack of the modules that are running."""
    names: dict[int, str] = {}
    for name, module in every_module(network):
        names.setdefault(id(module), name)

    def enter(module: nn.Module, _: Any) -> None:
        kind, around = type(module), stack[-1]
        own = not kind.__module__.startswith("torch.nn.")
        owner, calls = (kind.__name__, {}) if own else (around.owner, around.calls)
        stack.append(Running(names.get(id(module), ""), kind.__name__, owner, calls))

    def leave(*_: Any) -> None:
        stack.pop()

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
