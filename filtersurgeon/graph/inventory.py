"""The modules of a network and the tensors that they hold, by every name that they have."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn


def every_module(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """List all modules, those that stand in several places under each of their names.

    In the order of ``named_modules``, whose nested generators take twice as long.
    """
    found: list[tuple[str, nn.Module]] = []

    def walk(name: str, module: nn.Module) -> None:
        found.append((name, module))
        for key, child in module._modules.items():
            if child is not None:
                walk(f"{name}.{key}" if name else key, child)

    walk("", network)
    return found


def parameters(modules: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of some modules."""
    for name, module in modules:
        for key, tensor in module._parameters.items():
            if tensor is not None:
                yield f"{name}.{key}" if name else key, tensor


def buffers(modules: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers of some modules."""
    for name, module in modules:
        for key, tensor in module._buffers.items():
            if tensor is not None:
                yield f"{name}.{key}" if name else key, tensor
