"""TorchScript modules, as networks and inside of them.

TorchScript modules take no hooks, and hold their tensors outside Python. ``Scripted`` is a module
of Python around one: it holds the tensors under the same names, and hands them over before it runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_STATED = ("pretrained_cfg", "num_classes", "default_cfg")
_CONVOLUTIONS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        nn.Conv1d, nn.Conv2d, nn.Conv3d,
        nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    )
}  # fmt: skip
_CONVOLVES = ("aten::_convolution", "aten::convolution")
_GROUPS = 8
"""Place of the groups among the arguments of these operators."""


class Scripted(nn.Module):
    """Run a TorchScript module as an ordinary module.

    Its parts stand in modules of Python, which hold their tensors but do not run.
    """

    def __init__(self, inner: torch.jit.ScriptModule) -> None:
        super().__init__()
        self._inner = [inner]  # in a list, so that it is no submodule
        for name in _STATED:
            if hasattr(inner, name):
                setattr(self, name, getattr(inner, name))
        _fill(self, inner)
        self.train(inner.training)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the TorchScript module on the tensors of this one."""
        inner = dict(self._inner[0].named_modules(remove_duplicate=False))
        for path, module in self.named_modules(remove_duplicate=False):
            for name, tensor in _own_tensors(module):
                setattr(inner[path], name, tensor)
        return self._inner[0](*args, **kwargs)

    def train(self, mode: bool = True) -> Scripted:
        """Set the mode of both modules."""
        self._inner[0].train(mode)
        return super().train(mode)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    yield from module.named_buffers(recurse=False, remove_duplicate=False)


def _fill(module: nn.Module, inner: nn.Module) -> None:
    """Give a module the tensors and parts of a TorchScript module."""
    stored = inner.state_dict()
    for name, tensor in inner.named_parameters(recurse=False, remove_duplicate=False):
        plain = not isinstance(tensor, nn.Parameter)  # after some copies
        module.register_parameter(name, nn.Parameter(tensor, True) if plain else tensor)
    for name, buffer in inner.named_buffers(recurse=False, remove_duplicate=False):
        module.register_buffer(name, buffer, persistent=name in stored)
    for name, part in inner.named_children():
        shell = _shell(part)
        _fill(shell, part)
        module.add_module(name, shell)


def _shell(part: nn.Module) -> nn.Module:
    """Make a module for the tensors of a part; convolutions and linear layers show as such."""
    kind = getattr(part, "original_name", "")
    own = dict(part.named_parameters(recurse=False))
    weight = own.get("weight")
    if kind == "Linear" and weight is not None and weight.ndim == 2:
        outputs, inputs = weight.shape
        return nn.Linear(inputs, outputs, bias="bias" in own, device="meta")
    groups = _groups(part) if kind in _CONVOLUTIONS and weight is not None else None
    if weight is None or groups is None:
        return nn.Module()
    first, second, *kernel = weight.shape
    turned = kind.startswith("ConvTranspose")
    sides = (first, second * groups) if turned else (second * groups, first)
    stated = {
        name: getattr(part, name)
        for name in ("stride", "padding", "dilation", "padding_mode", "output_padding")
        if hasattr(part, name) and (turned or name != "output_padding")
    }
    made: nn.Module = _CONVOLUTIONS[kind](
        *sides, tuple(kernel), groups=groups, bias="bias" in own, device="meta", **stated
    )
    return made


def _groups(part: Any) -> int | None:
    """Give the number of groups of a convolution, which a traced one has in its code alone."""
    if hasattr(part, "groups"):
        return int(part.groups)
    for node in part.graph.nodes():
        if node.kind() in _CONVOLVES:
            found = list(node.inputs())[_GROUPS].toIValue()
            return None if found is None else int(found)
    return None


def is_scripted(network: nn.Module) -> bool:
    """Tell whether a network is a TorchScript module."""
    return isinstance(network, torch.jit.ScriptModule)


def replace_scripted(network: nn.Module) -> nn.Module:
    """Exchange the TorchScript modules of a network for modules of Python.

    Args:
        network: changed in place, unless it is a TorchScript module itself.
    """
    from filtersurgeon.networks.structure.replay import exchange

    if isinstance(network, torch.jit.ScriptModule):
        return Scripted(network)
    found = [(k, m) for k, m in network.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    for place, module in found:
        if not any(place.startswith(f"{other}.") for other, _ in found):
            exchange(network, module, Scripted(module))
    return network
