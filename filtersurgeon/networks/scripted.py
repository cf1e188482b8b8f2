"""TorchScript modules inside networks of Python."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from filtersurgeon.errors import ArchitectureError


class Scripted(nn.Module):
    """Run a TorchScript module without tensors of its own as an ordinary module.

    TorchScript modules take no hooks, and their tensors cannot be exchanged.
    """

    def __init__(self, inner: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._inner = [inner]  # in a list, so that it is no submodule

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the TorchScript module."""
        return self._inner[0](*args, **kwargs)

    def train(self, mode: bool = True) -> Scripted:
        """Set the mode of both modules."""
        self._inner[0].train(mode)
        return super().train(mode)


def replace_scripted(network: nn.Module, name: str) -> nn.Module:
    """Exchange the TorchScript modules of a network, in place.

    Args:
        network: the network.
        name: what messages call it.

    Raises:
        ArchitectureError: one has tensors, which can neither be read by name nor resized.
    """
    from filtersurgeon.networks.structure.replay import exchange

    found = [(k, m) for k, m in network.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    for place, module in found:
        if place == "" or any(True for _ in (*module.parameters(), *module.buffers())):
            what = f"layer {place} of {name} is" if place else f"{name} makes"
            raise ArchitectureError(
                f"{what} a TorchScript module; use the Python module that it was made from"
            )
    for place, module in found:
        if not any(place.startswith(f"{other}.") for other, _ in found):
            exchange(network, module, Scripted(module))
    return network
