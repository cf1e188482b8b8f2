"""Undoing what networks note down while they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs",
)


_OWN = frozenset({"_buffers", "_parameters", *_HOOKS})


@contextmanager
def restore_attributes(network: nn.Module) -> Iterator[None]:
    """Undo what a network's modules note down in their attributes while it runs.

    A tensor remembered from one run would be met in the next, where it has no labels, or belongs
    to other weights. Networks of transformers install hooks in their first run, and note that.
    """
    bare = _bare_attributes()
    before = [(vars(module), dict(vars(module))) for module in _list_modules(network)]
    contents: list[tuple[Any, Any]] = []
    for _, attributes in before:
        for name in attributes.keys() - bare:
            value = attributes[name]
            if type(value) in (dict, list):
                contents.append((value, value.copy()))
            elif name in _HOOKS:
                # Most are empty, and to copy them all would take a tenth of the time of a trace.
                contents.append((value, dict(value) if value else ()))
    try:
        yield
    finally:
        for holder, was in before:
            holder.clear()
            holder.update(was)
        for container, content in contents:
            if container or content:
                container.clear()
                add = container.extend if isinstance(container, list) else container.update
                add(content)


@cache
def _bare_attributes() -> frozenset[str]:
    """Name the attributes that every module has, but for those whose contents matter."""
    from torch import nn

    return frozenset(vars(nn.Module())) - _OWN


def _list_modules(network: nn.Module) -> list[nn.Module]:
    """List all modules once; the nested generators of ``modules`` take several times as long."""
    found: dict[int, nn.Module] = {}

    def walk(module: nn.Module) -> None:
        found[id(module)] = module
        for child in module._modules.values():
            if child is not None and id(child) not in found:
                walk(child)

    walk(network)
    return list(found.values())
