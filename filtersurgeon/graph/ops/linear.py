"""Matrix products: the axis that is summed over ties, the others pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import Sum, mix_all, operator
from filtersurgeon.graph.record import Record, Term
from filtersurgeon.graph.shapes import Made, like
from filtersurgeon.graph.zeros import has_silent_weight, spans


def multiply_with_nan(
    func: Any, args: Any, kwargs: Any, place: int, reach: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Multiply without NaNs, then set the results to NaN that depend on them.

    In PyTorch zero times NaN is NaN, although it does not depend on the value that NaN stands for.

    Args:
        func: an operator that multiplies two tensors.
        args: its arguments.
        kwargs: its keyword arguments.
        place: position of the first factor; an argument before it is added to the product.
        reach: multiplies two tensors of zeros and ones; the product is above zero where a NaN of
            one factor meets a value of the other that is not zero.
    """
    if func._schema.is_mutable:
        written: Tensor = func(*args, **kwargs)
        return written

    def without(tensor: Tensor) -> Tensor:
        return tensor.nan_to_num(0.0, torch.inf, -torch.inf)

    def felt(tensor: Tensor) -> Tensor:
        return ((tensor != 0) | tensor.isnan()).to(tensor.dtype)

    result: Tensor = func(*tree_map_only(Tensor, without, args), **kwargs)
    one, other = args[place : place + 2]
    reached = reach(one.isnan().to(result.dtype), felt(other)) > 0.5
    reached |= reach(felt(one), other.isnan().to(result.dtype)) > 0.5
    if place:
        reached |= args[0].isnan().expand_as(result)
    return result.masked_fill(reached, torch.nan)


def _run_with_nan(place: int, func: Any, args: Any, kwargs: Any) -> Tensor:
    return multiply_with_nan(func, args, kwargs, place, torch.matmul)


def _has_silent_results(step: Step, made: Sequence[Labels]) -> bool:
    """Check a product of matrices: rows come from the first, columns from the second."""
    one, other = step.args[-2:]
    left, right = step.labels(one), step.labels(other)
    rows = any(axis is not None for axis in left[:-1])
    columns = any(axis is not None for axis in (*right[:-2], right[-1]))
    whole = all(spans(step, added, made[0]) for added in step.args[:-2])
    return (step.silent(one) or not rows) and (step.silent(other) or not columns) and whole


def _has_silent_linear(step: Step, _made: Sequence[Labels]) -> bool:
    return has_silent_weight(step, step.labels(step.args[0])[:-1])


def _work(first: int, record: Record) -> list[Term]:
    """Multiply the lengths of the result's axes and of the axis that is summed over."""
    return [[*record.results[0].lengths, record.inputs[first].lengths[-1]]]


def _sum(second: int, axis: int, record: Record) -> Sum:
    return Sum(axis=record.inputs[second].labels[axis])


def _shape_of_linear(tensor: Tensor, weight: Tensor, bias: Tensor | None = None) -> Made:
    shape = (*tensor.shape[:-1], weight.shape[0])
    if tensor.shape[-1] != weight.shape[1]:
        raise RuntimeError("the last axis does not fit the weight")
    return torch.ops.aten.linear.default, (tensor, weight, bias), [like(tensor, shape)]


def _shape_of_product(one: Tensor, other: Tensor) -> Made | None:
    if min(one.ndim, other.ndim) < 2:
        return None
    if one.shape[-1] != other.shape[-2]:
        raise RuntimeError("the matrices do not fit")
    stacks = torch.broadcast_shapes(one.shape[:-2], other.shape[:-2])
    shape = (*stacks, one.shape[-2], other.shape[-1])
    return torch.ops.aten.matmul.default, (one, other), [like(one, shape)]


def contract(step: Step, one: Tensor, one_axis: int, other: Tensor, other_axis: int) -> None:
    """Sum over an axis of each of two tensors."""
    if one.shape[one_axis] > 1:
        left, right = step.labels(one)[one_axis], step.labels(other)[other_axis]
        step.add_up(step.tie(left, right, "summed over with values not channels"), one, other)


@operator(
    "mm",
    "bmm",
    equivariant=True,
    zero_preserving=_has_silent_results,
    work=partial(_work, 0),
    sums=partial(_sum, 1, -2),
    run_with_nan=partial(_run_with_nan, 0),
)
@operator(
    "matmul",
    equivariant=True,
    zero_preserving=_has_silent_results,
    shapes=dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _shape_of_product),
    work=partial(_work, 0),
    sums=partial(_sum, 1, -2),
)
def product(step: Step) -> Labels:
    """Multiply two matrices, or two stacks of them."""
    one, other = step.args[:2]
    left, right = step.labels(one), step.labels(other)
    contract(step, one, -1, other, -2)
    stacks = step.broadcast(
        [(one.shape[:-2], left[:-2]), (other.shape[:-2], right[:-2])], step.results[0].ndim - 2
    )
    return (*stacks, left[-2], right[-1])


@operator(
    "addmm",
    "baddbmm",
    equivariant=True,
    zero_preserving=_has_silent_results,
    work=partial(_work, 1),
    sums=partial(_sum, 2, -2),
    run_with_nan=partial(_run_with_nan, 1),
)
def added_product(step: Step) -> Labels:
    """Multiply two matrices and add a third tensor."""
    bias, one, other = step.args[:3]
    left, right = step.labels(one), step.labels(other)
    contract(step, one, -1, other, -2)
    result = step.results[0]
    made = (result.shape, (*left[:-2], left[-2], right[-1]))
    return step.broadcast([made, (bias.shape, step.labels(bias))], result.ndim)


@operator(
    "linear",
    equivariant=True,
    zero_preserving=_has_silent_linear,
    shapes={functional.linear: _shape_of_linear},
    work=partial(_work, 0),
    sums=partial(_sum, 1, -1),
)
def linear(step: Step) -> Labels:
    """Apply a matrix (outputs, inputs) to the last axis."""
    tensor, weight = step.args[:2]
    seen, held = step.labels(tensor), step.labels(weight)
    contract(step, tensor, -1, weight, 1)
    bias = step.arg(2, "bias")
    outputs = held[0] if bias is None else step.tie(held[0], step.labels(bias)[0])
    return (*seen[:-1], outputs)


def _shape_of_bilinear(
    one: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Made | None:
    if not (one.is_meta and other.is_meta) or one.shape[:-1] != other.shape[:-1]:
        return None
    if (one.shape[-1], other.shape[-1]) != tuple(weight.shape[1:]):
        raise RuntimeError("the last axes do not fit the weight")
    shape = (*one.shape[:-1], weight.shape[0])
    return torch.ops.aten.bilinear.default, (one, other, weight, bias), [like(one, shape)]


def _has_silent_bilinear(step: Step, _made: Sequence[Labels]) -> bool:
    one, _, weight, bias = step.args
    rows = any(axis is not None for axis in step.labels(one)[:-1])
    return not rows and step.silent(weight) and (bias is None or step.silent(bias))


def _work_of_bilinear(record: Record) -> list[Term]:
    one, other = record.inputs[:2]
    return [[*record.results[0].lengths, one.lengths[-1], other.lengths[-1]]]


@operator(
    "bilinear",
    equivariant=True,
    zero_preserving=_has_silent_bilinear,
    shapes={functional.bilinear: _shape_of_bilinear},
    work=_work_of_bilinear,
    sums=mix_all,
)
def bilinear(step: Step) -> Labels:
    """Apply a tensor (outputs, inputs, inputs) to the last axes of two tensors."""
    one, other, weight, bias = step.args
    held = step.labels(weight)
    contract(step, one, -1, weight, 1)
    contract(step, other, -1, weight, 2)
    outputs = held[0] if bias is None else step.tie(held[0], step.labels(bias)[0])
    seen = step.broadcast([(x.shape[:-1], step.labels(x)[:-1]) for x in (one, other)], one.ndim - 1)
    return (*seen, outputs)


@operator("mv", "addmv", "dot")
def vector_product(step: Step) -> Labels:
    """Multiply a matrix and a vector, both last of the arguments."""
    one, other = step.args[-2:]
    left, _right = step.labels(one), step.labels(other)
    contract(step, one, -1, other, 0)
    made = (step.results[0].shape, left[:-1])
    operands = [made, *((a.shape, step.labels(a)) for a in step.args[:-2])]
    return step.broadcast(operands, step.results[0].ndim)
