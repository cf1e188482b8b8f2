"""Cut channels out of a buffer that is not stored, which the network makes at its full width."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from filtersurgeon.errors import CheckpointError, near_misses
from filtersurgeon.networks.structure.replay import find_module


def cut_buffer(model: nn.Module, *, module: str, name: str, axis: int, keep: Sequence[int]) -> None:
    """Keep some indices along one axis of a buffer that is not stored.

    Args:
        model: the network, changed in place.
        module: dotted name of the module; empty for the network itself.
        name: of a buffer that is not part of the module's state.
        axis: of the buffer.
        keep: indices, ascending.

    Raises:
        CheckpointError: there is no such buffer, or no such indices.
    """
    found = find_module(model, module)
    place = f"{module}.{name}" if module else str(name)
    unstored = sorted(found._non_persistent_buffers_set)
    buffer = found._buffers.get(name) if name in unstored else None
    if buffer is None:
        raise CheckpointError(
            f"the structure cuts {place!r}, which is no buffer without stored values"
            f"{near_misses(str(name), unstored)}"
        )
    if type(axis) is not int or not 0 <= axis < buffer.ndim:
        raise CheckpointError(f"the structure cuts {place}, which has no axis {axis!r}")
    kept = list(keep) if isinstance(keep, list | tuple) else []
    rising = all(type(index) is int for index in kept) and kept == sorted(set(kept))
    if not kept or not rising or not 0 <= kept[0] <= kept[-1] < buffer.shape[axis]:
        raise CheckpointError(
            f"the structure's indices for {place} should be ascending and from 0 to "
            f"{buffer.shape[axis] - 1}"
        )
    found._buffers[name] = buffer.index_select(axis, torch.tensor(kept, device=buffer.device))
