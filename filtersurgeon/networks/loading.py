"""Give a network the tensors of a checkpoint."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.networks.structure.plain_weights import refresh

if TYPE_CHECKING:
    from torch import nn


def load_tensors(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tensors, with their types, in the place of a network's own.

    Tensors that are one stay one, unless the checkpoint stores different values for them.
    """
    import torch

    tied = _find_tied(model)
    tensors = OrderedDict(checkpoint.state_dict())
    # Some modules ask which version of themselves was saved; files do not tell, shapes do.
    tensors._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(tensors, strict=False, assign=True)
    refresh(model)
    for (first_module, first), *others in tied:
        kept = getattr(first_module, first)
        for module, name in others:
            if torch.equal(kept, getattr(module, name)):
                setattr(module, name, kept)


def _find_tied(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """List the places of every parameter and buffer that has more than one."""
    places = defaultdict(list)
    for module in model.modules():
        for name, tensor in (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ):
            places[id(tensor)].append((module, name))
    return [shared for shared in places.values() if len(shared) > 1]
