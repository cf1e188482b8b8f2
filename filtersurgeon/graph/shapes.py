"""Shapes of what some functions return, without running them.

There are two kinds: the commonest functions, as PyTorch's own shape functions take most of the
time of following a network; and functions that PyTorch takes to pieces, differently for different
strides. A function here gives the operator, its arguments as the operator's rule expects them, and
results without data; or None where the call is an unusual one, which then runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_aten = torch.ops.aten

Made = tuple[Any, tuple[Any, ...], list[Tensor]]
"""An operator, its arguments, and its results."""


def like(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Make a tensor without data, of another's type."""
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


def _convolution(
    image: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Made | None:
    if isinstance(padding, str) or image.ndim != 4 or weight.ndim != 4 or not image.is_meta:
        return None
    if image.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise RuntimeError("the channels do not fit the weight")
    steps, pads, gaps = _pair(stride), _pair(padding), _pair(dilation)
    space = [
        (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, gap in zip(
            image.shape[2:], weight.shape[2:], steps, pads, gaps, strict=True
        )
    ]
    if min(space) < 1:
        raise RuntimeError("the image is smaller than the kernel")
    args = (image, weight, bias, steps, pads, gaps, False, [0, 0], groups)
    shape = (image.shape[0], weight.shape[0], *space)
    return _aten.convolution.default, args, [like(image, shape)]


def _pair(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _batch_norm(
    tensor: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Made | None:
    if training or running_mean is None or tensor.ndim < 2 or not tensor.is_meta:
        return None
    held = (weight, bias, running_mean, running_var)
    if any(own is not None and own.shape[0] != tensor.shape[1] for own in held):
        raise RuntimeError("the channels do not fit the statistics")
    args = (tensor, *held, training, momentum, eps)
    return _aten.native_batch_norm.default, args, [like(tensor, tensor.shape)]


def _plain(tensor: Any) -> bool:
    """Tell whether a result made of a tensor is as plain as those made here."""
    if not isinstance(tensor, Tensor) or not tensor.is_meta:
        return False
    return tensor.is_floating_point() and tensor.is_contiguous()


def _unary(made: Any, written: Any = None) -> Callable[..., Made | None]:
    """Give the shapes of an operator on every element by itself, and of its form in place."""

    def shapes(tensor: Tensor, inplace: bool = False) -> Made | None:
        if not _plain(tensor):
            return None
        if inplace:
            return written, (tensor,), [tensor]
        return made, (tensor,), [like(tensor, tensor.shape)]

    return shapes


def _binary(made: Any, in_place: bool = False) -> Callable[..., Made | None]:
    """Give the shapes of an operator on two tensors, element by element."""

    def shapes(one: Tensor, other: Any) -> Made | None:
        if not _plain(one) or not _plain(other) or one.dtype != other.dtype:
            return None
        shape = one.shape
        if other.shape != shape:
            shape = torch.broadcast_shapes(shape, other.shape)
        if in_place and shape != one.shape:
            raise RuntimeError("the tensor that is written into is too small")
        return made, (one, other), [one if in_place else like(one, shape)]

    return shapes


def _gelu(tensor: Tensor, **_: Any) -> Made | None:
    if not _plain(tensor):
        return None
    return _aten.gelu.default, (tensor,), [like(tensor, tensor.shape)]


def _mean(
    tensor: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False
) -> Made | None:
    if dim is None or not _plain(tensor):
        return None
    dims = [dim] if isinstance(dim, int) else list(dim)
    gone = {axis % tensor.ndim for axis in dims}
    if not gone:
        return None
    sizes = [1 if axis in gone else size for axis, size in enumerate(tensor.shape)]
    shape = [size for axis, size in enumerate(sizes) if keepdim or axis not in gone]
    return _aten.mean.dim, (tensor, dims, keepdim), [like(tensor, shape)]


def _adaptive_average(tensor: Tensor, output_size: int | Sequence[int | None]) -> Made | None:
    if output_size not in (1, (1, 1), [1, 1]):
        return None
    return _mean(tensor, [-1, -2], True)


def _layer_norm(
    tensor: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Made | None:
    """Give the shapes of a layer normalisation, without the statistics that no one reads."""
    if not tensor.is_meta:
        return None
    over = tuple(normalized_shape)
    held = [tuple(own.shape) for own in (weight, bias) if own is not None]
    if any(shape != over for shape in (tuple(tensor.shape[-len(over) :]), *held)):
        raise RuntimeError("the channels do not fit the scale")
    args = (tensor, list(over), weight, bias, eps)
    return _aten.native_layer_norm.default, args, [like(tensor, tensor.shape)]


def _cat(tensors: Sequence[Tensor], dim: int = 0) -> Made | None:
    first = tensors[0]
    kinds = {(tensor.ndim, tensor.dtype, tensor.is_meta) for tensor in tensors}
    if kinds != {(first.ndim, first.dtype, True)}:
        return None
    shape = list(first.shape)
    shape[dim] = 0
    for tensor in tensors:
        other = list(tensor.shape)
        other[dim] = 0
        if other != shape:
            raise RuntimeError("the tensors do not fit beside each other")
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return _aten.cat.default, (tensors, dim), [like(first, shape)]


def _linear(tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> Made:
    shape = (*tensor.shape[:-1], weight.shape[0])
    if tensor.shape[-1] != weight.shape[1]:
        raise RuntimeError("the last axis does not fit the weight")
    return _aten.linear.default, (tensor, weight, bias), [like(tensor, shape)]


def _matmul(one: Tensor, other: Tensor) -> Made | None:
    if min(one.ndim, other.ndim) < 2:
        return None
    if one.shape[-1] != other.shape[-2]:
        raise RuntimeError("the matrices do not fit")
    stacks = torch.broadcast_shapes(one.shape[:-2], other.shape[:-2])
    shape = (*stacks, one.shape[-2], other.shape[-1])
    return _aten.matmul.default, (one, other), [like(one, shape)]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
) -> Made:
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError("queries, keys and values do not fit")
    shape = (*query.shape[:-1], value.shape[-1])
    args = (query, key, value, attn_mask)
    return _aten.scaled_dot_product_attention.default, args, [like(query, shape)]


def _lstm(tensor: Tensor, hx: Sequence[Tensor], *rest: Any) -> Made | None:
    """Give the shapes of a long short-term memory, whose weights PyTorch holds twice."""
    if not isinstance(hx, list | tuple) or len(rest) != 7:
        return None
    *_, bidirectional, _batch_first = rest
    features = hx[0].shape[-1] * (2 if bidirectional else 1)
    results = [like(tensor, (*tensor.shape[:-1], features))]
    results += [like(state, state.shape) for state in hx]
    return _aten.lstm.input, (tensor, hx, *rest), results


SHAPES: dict[Any, Callable[..., Made | None]] = {
    torch.conv2d: _convolution,
    functional.batch_norm: _batch_norm,
    functional.relu: _unary(_aten.relu.default, _aten.relu_.default),
    functional.silu: _unary(_aten.silu.default, _aten.silu_.default),
    functional.hardswish: _unary(_aten.hardswish.default, _aten.hardswish_.default),
    functional.gelu: _gelu,
    functional.layer_norm: _layer_norm,
    functional.adaptive_avg_pool2d: _adaptive_average,
    **dict.fromkeys([torch.mean, Tensor.mean], _mean),
    torch.sigmoid: _unary(_aten.sigmoid.default),
    Tensor.sigmoid: _unary(_aten.sigmoid.default),
    **dict.fromkeys([torch.add, Tensor.add, Tensor.__add__], _binary(_aten.add.Tensor)),
    **dict.fromkeys([Tensor.add_, Tensor.__iadd__], _binary(_aten.add_.Tensor, True)),
    **dict.fromkeys([torch.mul, Tensor.mul, Tensor.__mul__], _binary(_aten.mul.Tensor)),
    torch.cat: _cat,
    functional.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    functional.scaled_dot_product_attention: _attention,
    torch.lstm: _lstm,
}
