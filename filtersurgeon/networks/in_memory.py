"""A module in memory as an architecture, and the inputs that it is called with."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


_BOUND = "_takes_one_image"


class InMemory(str):
    """The name of an architecture, ``module:CLASS``, that carries the module.

    Attributes:
        module: a private copy.
        inputs: what it is called with; None for one image.
        size: of the image, without the axis of the batch; None if it is not stated.
    """

    module: nn.Module
    inputs: Inputs | None
    size: tuple[int, ...] | None

    def make(self, *, on_meta: bool) -> nn.Module:
        """Make a copy of the module, its parameters without data if on the meta device.

        TorchScript modules are exchanged for modules of Python.
        """
        from filtersurgeon.networks.scripted import replace_scripted

        made = replace_scripted(copy_module(self.module, on_meta=on_meta))
        if self.inputs is not None:
            bind(made, self.inputs)
        return made


@dataclass(frozen=True)
class Inputs:
    """What a network is called with, all of it constant but for one tensor, the image.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        image: the first tensor of real numbers among them with the most axes.
        batched: every tensor has an axis of the batch, of size 1, and is repeated for more images.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    image: Tensor
    batched: bool = False

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the image without the axis of the batch."""
        return tuple(self.image.shape[1:] if self._is_batch else self.image.shape)

    @property
    def _is_batch(self) -> bool:
        return self.image.ndim > 1 and len(self.image) == 1

    def with_image(self, image: Tensor) -> tuple[Any, Any]:
        """Give both kinds of arguments with another image, ``(1, *size)``, its type and device."""
        from torch import Tensor

        shown = image if self._is_batch else image[0]

        def exchange(value: Any) -> Any:
            if value is self.image:
                return shown
            if isinstance(value, Tensor):
                real = value.is_floating_point()
                value = value.to(image.device, image.dtype if real else value.dtype)
                count = len(image) if self.batched else 1
                return value if count == 1 else value.expand(count, *value.shape[1:])
            if isinstance(value, Mapping):
                return {key: exchange(item) for key, item in value.items()}
            # The exporter of torch 2.6 does not trace `list | tuple`.
            if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
                return type(value)(exchange(item) for item in value)
            return value

        return exchange(self.args), exchange(dict(self.kwargs))


def bind(network: nn.Module, inputs: Inputs) -> None:
    """Let a network take one image, and its other inputs as they are."""
    kind: Any = type(network)

    def forward(self: nn.Module, image: Tensor) -> Any:
        args, kwargs = inputs.with_image(image)
        return kind.forward(self, *args, **kwargs)

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward, _BOUND: inputs})


def unbind(network: nn.Module) -> None:
    """Let a network take its own inputs again."""
    if bound_inputs(network) is not None:
        network.__class__ = type(network).__bases__[0]


def bound_inputs(network: nn.Module) -> Inputs | None:
    """Give what a network is called with besides one image; None if it takes that alone."""
    return vars(type(network)).get(_BOUND)


def copy_module(module: nn.Module, *, on_meta: bool = False) -> nn.Module:
    """Copy a module with its hooks, also where it holds tensors that were computed.

    What hooks belong to besides the module, such as a recorder, is shared with the copy.
    """
    import torch
    from torch import nn

    memo: dict[int, Any] = {}
    inside = {id(part) for part in module.modules()}
    for part in module.modules():
        for value in (*part._parameters.values(), *vars(part).values()):
            if isinstance(value, nn.Parameter) and on_meta:
                made = torch.empty_like(value, device="meta", requires_grad=False)
                memo[id(value)] = nn.Parameter(made, value.requires_grad)
            elif isinstance(value, torch.Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
        for hooks in vars(part).values():
            for hook in hooks.values() if isinstance(hooks, dict) else ():
                owner = getattr(hook, "__self__", hook)
                if callable(hook) and id(owner) not in inside and not isinstance(owner, nn.Module):
                    memo[id(owner)] = owner
    copied = deepcopy(module, memo)
    for part in copied.modules():
        _own_class(part)
    return copied


def _own_class(part: nn.Module) -> None:
    """Give a module with parametrizations its own class: it holds them, and copies share it."""
    from torch.nn.utils.parametrize import is_parametrized

    if is_parametrized(part):
        kind = type(part)
        own = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        part.__class__ = type(kind.__name__, kind.__bases__, own)
