"""Constants that a module repeats for every channel: the filters of a blur pool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    from torch import nn


def resize_constants(module: nn.Module, old: int, new: int) -> None:
    """Repeat the constants of a module for another number of channels.

    Constants are buffers that are not stored, whose first axis are the channels, and which are the
    same for each of them.

    Raises:
        CheckpointError: they differ between channels, so that shapes do not tell which to keep.
    """
    stored = module.state_dict()
    for name, buffer in list(module.named_buffers(recurse=False)):
        if name in stored or buffer.ndim < 2 or len(buffer) != old:
            continue
        if not bool((buffer == buffer[:1]).all()):
            raise CheckpointError(f"the constants {name!r} differ between channels")
        # A view: no memory is spent on a number of channels before the network is proven.
        module.register_buffer(name, buffer[:1].expand(new, *buffer.shape[1:]), persistent=False)


def settle_constants(model: nn.Module) -> None:
    """Give repeated constants memory of their own, as processes that share a network need it."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_contiguous():
                module._buffers[name] = buffer.contiguous()
