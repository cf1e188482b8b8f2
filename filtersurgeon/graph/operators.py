"""Facts about an operator that are known before it is called."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

_SAME = {
    **dict.fromkeys(["alias", "detach", "lift_fresh", "contiguous", "_to_copy"], "clone"),
    **dict.fromkeys(["_unsafe_view", "_reshape_alias", "reshape", "_reshape_copy"], "view"),
}
"""Operators that do the same, by the name that they are followed under."""

_FILLING = frozenset(["full", "new_full", "full_like", "fill", "scalar_tensor"])

_EQUIVARIANT = """
convolution linear mm addmm bmm baddbmm matmul cat permute transpose t
native_batch_norm _native_batch_norm_legit_no_training native_layer_norm
max_pool2d_with_indices max_pool2d avg_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d
mean sum _softmax hardswish hardsigmoid hardtanh
"""


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator of PyTorch.

    Attributes:
        name: without overload, such as ``convolution``.
        copies: whether its result is its argument, for all that matters here.
        mutable: whether it writes into an argument.
        pointwise: whether it acts on every element by itself.
        calculates: whether whole numbers among its arguments are such that it calculates with,
            rather than sizes and axes.
        equivariant: whether removing channels before it is the same as removing them after it: with
            the same numbers, it makes of what is left of its arguments what is left of its
            results.
    """

    name: str
    copies: bool
    mutable: bool
    pointwise: bool
    calculates: bool
    equivariant: bool


@cache
def operator_of(function: Any) -> Operator:
    """Describe a function of ``torch.ops``; its schema takes long to ask."""
    schema = function._schema
    plain = schema.name.partition("::")[2]
    name = _SAME.get(plain) or plain.rstrip("_") or plain
    pointwise = torch.Tag.pointwise in function.tags
    calculates = pointwise or name in _FILLING
    equivariant = (pointwise or name in _EQUIVARIANT.split()) and "out" not in {
        a.name for a in schema.arguments
    }
    return Operator(name, name == "clone", schema.is_mutable, pointwise, calculates, equivariant)
