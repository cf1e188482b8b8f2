"""Convolutions with frozen weights: what their backward pass computes, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextmanager
def skip_weight_gradients(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Spare frozen convolutions all work and memory for the gradient of their weights.

    PyTorch computes no gradient that is not asked for, with two exceptions: on a CPU the gradient
    of a bias comes with that of the weight, and the input is kept until the backward pass although
    only the gradient of the weight needs it. Inside the block the bias is added apart, and the
    input is not kept. Layers with a ``forward`` of their own stay as they are.

    Args:
        model: changed in place and put back afterwards; no parameter is renamed.
        names: modules whose weights do not train.
    """
    changed = []
    for module in map(model.get_submodule, names):
        lean = _find_lean_class(module)
        if lean is not None:
            changed.append((module, type(module)))
            module.__class__ = lean
    try:
        yield
    finally:
        for module, original in changed:
            module.__class__ = original


def _find_lean_class(module: Any) -> type | None:
    """Give the class of a convolution without gradients of its weight, or None for other layers."""
    from torch import nn
    from torch.nn.utils.parametrize import is_parametrized

    cls = type(module)
    for plain in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
        own = isinstance(module, plain) and cls.forward is plain.forward
        if own and cls._conv_forward is plain._conv_forward and not is_parametrized(module):
            return type(cls.__name__, (cls,), {"_conv_forward": _convolve_with(plain)})
    return None


def _convolve_with(plain: Any) -> Callable[..., Tensor]:
    def convolve(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        import torch
        from torch.autograd.graph import saved_tensors_hooks

        lean = torch.is_grad_enabled() and not weight.requires_grad
        if not lean or layer.padding_mode != "zeros":
            result: Tensor = plain._conv_forward(layer, x, weight, bias)
            return result
        with saved_tensors_hooks(partial(_pack, weight.shape), _unpack):
            result = plain._conv_forward(layer, x, weight, None)
        return result if bias is None else result + bias.view(-1, *(1,) * (weight.ndim - 2))

    return convolve


def _pack(weight_shape: Any, tensor: Tensor) -> Any:
    """Keep the weight, and of the input its shape alone."""
    if tensor.shape == weight_shape:
        return tensor
    return tensor.new_empty(1), tensor.shape


def _unpack(packed: Any) -> Tensor:
    """Give the weight, or a tensor of the input's shape whose values are not read."""
    if isinstance(packed, tuple):
        value, shape = packed
        shaped: Tensor = value.expand(shape)
        return shaped
    whole: Tensor = packed
    return whole
