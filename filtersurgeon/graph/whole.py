"""Operators kept in one piece that PyTorch takes to pieces, differently for different strides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_aten = torch.ops.aten

Follow = Callable[[Any, tuple[Any, ...], dict[str, Any], Sequence[Tensor]], None]
"""Takes an operator, its arguments and its results."""


class Whole(TorchFunctionMode):
    """Computes the shapes of some functions itself and hands them on as one operator.

    The scale of attention, for example, is a number that PyTorch works out from the length of a
    head; taken whole, its rule can see it.

    Args:
        follow: told of each.
        aside: given True while shapes are computed, and False after.
    """

    def __init__(self, follow: Follow, aside: Callable[[bool], None]) -> None:
        super().__init__()
        self._follow = follow
        self._aside = aside

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, whole or as it is."""
        kwargs = kwargs or {}
        shapes = _SHAPES.get(func)
        made = None
        if shapes is not None:
            self._aside(True)
            try:
                made = shapes(*args, **kwargs)
            finally:
                self._aside(False)
        if made is None:
            return func(*args, **kwargs)
        operator, args, results = made
        self._follow(operator, args, kwargs, results)
        return results[0] if len(results) == 1 else tuple(results)


_Made = tuple[Any, tuple[Any, ...], list[Tensor]]


def _linear(tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> _Made:
    shape = (*tensor.shape[:-1], weight.shape[0])
    if tensor.shape[-1] != weight.shape[1]:
        raise RuntimeError("the last axis does not fit the weight")
    return _aten.linear.default, (tensor, weight, bias), [_like(tensor, shape)]


def _matmul(one: Tensor, other: Tensor) -> _Made | None:
    if min(one.ndim, other.ndim) < 2:
        return None
    if one.shape[-1] != other.shape[-2]:
        raise RuntimeError("the matrices do not fit")
    stacks = torch.broadcast_shapes(one.shape[:-2], other.shape[:-2])
    shape = (*stacks, one.shape[-2], other.shape[-1])
    return _aten.matmul.default, (one, other), [_like(one, shape)]


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
) -> _Made:
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError("queries, keys and values do not fit")
    shape = (*query.shape[:-1], value.shape[-1])
    args = (query, key, value, attn_mask)
    return _aten.scaled_dot_product_attention.default, args, [_like(query, shape)]


def _lstm(tensor: Tensor, hx: Sequence[Tensor], *rest: Any) -> _Made | None:
    """Give the shapes of a long short-term memory, whose weights PyTorch holds twice."""
    if not isinstance(hx, list | tuple) or len(rest) != 7:
        return None
    *_, bidirectional, _batch_first = rest
    features = hx[0].shape[-1] * (2 if bidirectional else 1)
    results = [_like(tensor, (*tensor.shape[:-1], features))]
    results += [_like(state, state.shape) for state in hx]
    return _aten.lstm.input, (tensor, hx, *rest), results


def _like(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


_SHAPES: dict[Any, Callable[..., _Made | None]] = {
    functional.linear: _linear,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    Tensor.__matmul__: _matmul,
    functional.scaled_dot_product_attention: _attention,
    torch.lstm: _lstm,
}
