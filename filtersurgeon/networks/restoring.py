"""Undoing what networks note down while they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def restore_attributes(network: nn.Module) -> Iterator[None]:
    """Undo what a network's modules note down in their attributes while it runs.

    A tensor remembered from one run would be met in the next, where it has no labels, or belongs
    to other weights. Networks of transformers install hooks in their first run, and note that.
    """
    from torch import nn

    bare = vars(nn.Module()).keys() - {"_buffers", "_parameters", *_HOOKS}
    before = [(vars(module), dict(vars(module))) for module in network.modules()]
    contents: list[tuple[Any, Any]] = [
        (value, value.copy())
        for _, attributes in before
        for name, value in attributes.items()
        if name not in bare and (type(value) in (dict, list) or name in _HOOKS)
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
