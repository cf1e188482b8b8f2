"""Seeing what layers read and make while a network runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass(frozen=True)
class Call:
    """A layer at work.

    Attributes:
        inputs: what it reads, ``(n, in, ...)`` of a convolution, ``(..., in)`` of a linear layer.
        outputs: what it makes of them.
        geometry: stride, padding and dilation of a convolution; None for a linear layer.
    """

    inputs: Tensor
    outputs: Tensor
    geometry: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None


Watcher = Callable[[str, Call], None]


def watch(network: nn.Module, images: Tensor, layers: Iterable[str], watcher: Watcher) -> None:
    """Run a network and tell a watcher about some layers as they work.

    Convolutions are seen as they are computed, with the padding that the network's own code has
    put around the input, whatever the module says.

    Args:
        network: in evaluation mode.
        images: a batch.
        layers: names of convolutions and linear layers.
        watcher: given the name of a layer and its call.
    """
    names, handles = {}, []
    for name in layers:
        module = network.get_submodule(name)
        if isinstance(module, nn.Linear):
            handles.append(module.register_forward_hook(_linear_hook(name, watcher)))
        else:
            names[id(module.weight)] = name
    try:
        with torch.no_grad(), _Convolutions(names, watcher):
            network(images)
    finally:
        for handle in handles:
            handle.remove()


def _linear_hook(name: str, watcher: Watcher) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        watcher(name, Call(inputs[0], output, None))

    return hook


class _Convolutions(TorchDispatchMode):
    """Tells a watcher about convolutions with certain weights."""

    def __init__(self, names: dict[int, str], watcher: Watcher) -> None:
        super().__init__()
        self._names, self._watcher = names, watcher

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            name = self._names.get(id(args[1]))
            if name is not None:
                stride, padding, dilation = (tuple(numbers) for numbers in args[3:6])
                with _paused():
                    self._watcher(name, Call(args[0], result, (stride, padding, dilation)))
        return result


@contextmanager
def _paused() -> Iterator[None]:
    """Let the watcher's own operators run without being seen."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield
