"""Operators that act on every element by itself."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import POINTWISE, operator
from filtersurgeon.graph.record import tensors
from filtersurgeon.graph.shapes import Made, binary, is_plain, like, unary
from filtersurgeon.graph.zeros import all_hold, if_all_silent, spans

_aten = torch.ops.aten


def _bounds_hold_zero(step: Step, made: Sequence[Labels]) -> bool:
    """Clamp between bounds that zero lies within."""
    low = step.arg(1, "min")
    high = step.arg(2, "max")
    bounds = (-inf if low is None else low, inf if high is None else high)
    if any(isinstance(bound, Tensor) for bound in bounds):
        return False
    return bounds[0] <= 0 <= bounds[1] and if_all_silent(step, made)


def _bound_is_below(step: Step, made: Sequence[Labels]) -> bool:
    low = step.arg(1, "min")
    return not isinstance(low, Tensor) and low <= 0 and if_all_silent(step, made)


def _exponent_is_positive(step: Step, made: Sequence[Labels]) -> bool:
    exponent = step.args[1]
    return not isinstance(exponent, Tensor) and exponent > 0 and if_all_silent(step, made)


def _has_silent_factor(step: Step, made: Sequence[Labels]) -> bool:
    """Take a product as silent where one factor is, and spans every axis of channels."""
    return any(spans(step, tensor, made[0]) for tensor in tensors(step.args))


def _has_silent_dividend(step: Step, made: Sequence[Labels]) -> bool:
    return isinstance(step.args[0], Tensor) and spans(step, step.args[0], made[0])


def _has_silent_terms(step: Step, made: Sequence[Labels]) -> bool:
    """Take a sum as silent where all terms are, and span every axis of channels."""
    return all(
        spans(step, term, made[0]) if isinstance(term, Tensor) else term == 0
        for term in step.args[:2]
    )


def _has_silent_source(step: Step, made: Sequence[Labels]) -> bool:
    return spans(step, step.args[1], made[0])


def _multiply_with_nan(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Give zero where a factor is zero: zero times anything finite is zero."""
    result: Tensor = func(*args, **kwargs)
    for factor in args:
        if isinstance(factor, Tensor):
            result.masked_fill_((factor == 0).expand_as(result), 0)
        elif factor == 0:
            result.zero_()
    return result


def _shape_of_gelu(tensor: Tensor, **_: Any) -> Made | None:
    if not is_plain(tensor):
        return None
    return _aten.gelu.default, (tensor,), [like(tensor, tensor.shape)]


@operator(POINTWISE)
@operator(
    "relu",
    zero_preserving=if_all_silent,
    shapes={functional.relu: unary(_aten.relu.default, _aten.relu_.default)},
)
@operator(
    "silu",
    zero_preserving=if_all_silent,
    shapes={functional.silu: unary(_aten.silu.default, _aten.silu_.default)},
)
@operator(
    "gelu",
    zero_preserving=if_all_silent,
    shapes={functional.gelu: _shape_of_gelu},
)
@operator(
    "sigmoid",
    shapes=dict.fromkeys((torch.sigmoid, Tensor.sigmoid), unary(_aten.sigmoid.default)),
)
@operator(
    "tanh", "leaky_relu", "elu", "abs", "neg", "sqrt", "sin", "erf", "square", "sign", "mish",
    "celu", "hardshrink", "softshrink", "asinh", "atan", "expm1", "log1p", "round", "floor",
    zero_preserving=if_all_silent,
)  # fmt: skip
@operator("clamp", zero_preserving=_bounds_hold_zero)
@operator("clamp_min", zero_preserving=_bound_is_below)
@operator("pow", zero_preserving=_exponent_is_positive)
@operator(
    "mul",
    zero_preserving=_has_silent_factor,
    truth_preserving=all_hold,
    shapes=dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__), binary(_aten.mul.Tensor)),
    run_with_nan=_multiply_with_nan,
)
@operator("div", zero_preserving=_has_silent_dividend)
@operator(
    "add",
    zero_preserving=_has_silent_terms,
    shapes={
        **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__), binary(_aten.add.Tensor)),
        **dict.fromkeys((Tensor.add_, Tensor.__iadd__), binary(_aten.add_.Tensor, True)),
    },
)
@operator("sub", "maximum", "minimum", zero_preserving=_has_silent_terms)
# PyTorch does not tag the following as pointwise, though they are.
@operator(
    "hardswish",
    equivariant=True,
    zero_preserving=if_all_silent,
    shapes={functional.hardswish: unary(_aten.hardswish.default, _aten.hardswish_.default)},
)
@operator("hardtanh", equivariant=True, zero_preserving=_bounds_hold_zero)
@operator("prelu", "_prelu_kernel", equivariant=True, zero_preserving=if_all_silent)
@operator("hardsigmoid", "where", "masked_fill", equivariant=True)
def elementwise(step: Step) -> Labels | list[Labels]:
    """Tie all operands, element by element."""
    operands = [
        (arg.shape, step.labels(arg))
        for arg in (*step.args, *step.kwargs.values())
        if isinstance(arg, Tensor)
    ]
    if len(operands) == 1 and step.results[0].shape == operands[0][0]:
        return operands[0][1]
    return step.broadcast(operands, step.results[0].ndim)


@operator("native_dropout", zero_preserving=if_all_silent)
def same(step: Step) -> Labels | list[Labels]:
    """Pass the labels of the only operand."""
    labels = step.labels(step.args[0])
    return labels if len(step.results) == 1 else [labels] * len(step.results)


@operator("copy", zero_preserving=_has_silent_source)
def copy(step: Step) -> Labels:
    """Write into a tensor, element by element."""
    target, source = step.args[0], step.args[1]
    operands = [(tensor.shape, step.labels(tensor)) for tensor in (target, source)]
    return step.broadcast(operands, target.ndim)
