"""Finding and exchanging the modules that an edit names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.errors import CheckpointError, near_misses

if TYPE_CHECKING:
    from torch import nn


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Give the module of a dotted name; the empty name is the network itself.

    Raises:
        CheckpointError: there is none; names the near misses.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        raise CheckpointError(
            f"the structure names the module {name!r}, which the network does not have"
            f"{near_misses(name, modules)}"
        )
    return modules[name]


def exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in every place of another one."""
    for parent in model.modules():
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)
