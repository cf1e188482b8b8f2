"""What shape functions of operators are made of.

PyTorch's own shape functions take most of the time of following a network, and some functions of
PyTorch are taken to pieces, differently for different strides. A shape function replaces them: it
gives the operator, its arguments as the operator's rule expects them, and results without data; or
None where the call is an unusual one, which then runs as it is. It stands beside the rule in
:mod:`filtersurgeon.graph.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Made = tuple[Any, tuple[Any, ...], Sequence[Tensor | None]]
"""An operator, its arguments, and its results; None for results that were not asked for."""

ShapeFunction = Callable[..., Made | None]
"""Takes the arguments of a function of PyTorch."""


def like(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Make a tensor without data, of another's type."""
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


def is_plain(tensor: Any) -> bool:
    """Tell whether a result made of a tensor is as plain as those made here."""
    if not isinstance(tensor, Tensor) or not tensor.is_meta:
        return False
    return tensor.is_floating_point() and tensor.is_contiguous()


def unary(made: Any, written: Any = None) -> ShapeFunction:
    """Give the shapes of an operator on every element by itself, and of its form in place."""

    def shapes(tensor: Tensor, inplace: bool = False) -> Made | None:
        if not is_plain(tensor):
            return None
        if inplace:
            return written, (tensor,), [tensor]
        return made, (tensor,), [like(tensor, tensor.shape)]

    return shapes


def binary(made: Any, in_place: bool = False) -> ShapeFunction:
    """Give the shapes of an operator on two tensors, element by element."""

    def shapes(one: Tensor, other: Any) -> Made | None:
        if not is_plain(one) or not is_plain(other) or one.dtype != other.dtype:
            return None
        shape = one.shape
        if other.shape != shape:
            shape = torch.broadcast_shapes(shape, other.shape)
        if in_place and shape != one.shape:
            raise RuntimeError("the tensor that is written into is too small")
        return made, (one, other), [one if in_place else like(one, shape)]

    return shapes
