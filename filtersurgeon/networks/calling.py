"""Running a network on other tensors than its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


def call(model: nn.Module, tensors: Mapping[str, Tensor], *inputs: Any) -> Any:
    """Run a network with some of its parameters and buffers exchanged.

    A tensor that has several names, because modules share it or because a module stands in several
    places, is exchanged under all of them by any. (``torch.func.functional_call`` leaves exchanged
    tensors behind in a module that stands in several places.)

    Args:
        model: the network; as it was in the end.
        tensors: by name.
        inputs: what the network is called with.
    """
    own: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    own.update(model.named_parameters(remove_duplicate=False))
    others = {id(own[name]): tensor for name, tensor in tensors.items()}
    undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for module in model.modules():
            holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for holder in holders:
                undo.append((holder, dict(holder)))
                holder.update({k: others[id(t)] for k, t in holder.items() if id(t) in others})
        return model(*inputs)
    finally:
        for holder, before in undo:
            holder.update(before)
