"""Matrix products: the axis that is summed over ties, the others pass."""

from __future__ import annotations

from torch import Tensor

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import rule


def _contract(step: Step, one: Tensor, one_axis: int, other: Tensor, other_axis: int) -> None:
    if one.shape[one_axis] > 1:
        left, right = step.labels(one)[one_axis], step.labels(other)[other_axis]
        step.add_up(step.tie(left, right, "summed over with values not channels"), one, other)


@rule("mm", "bmm", "matmul")
def product(step: Step) -> Labels:
    """Multiply two matrices, or two stacks of them."""
    one, other = step.args[:2]
    left, right = step.labels(one), step.labels(other)
    _contract(step, one, -1, other, -2)
    stacks = step.broadcast(
        [(one.shape[:-2], left[:-2]), (other.shape[:-2], right[:-2])], step.results[0].ndim - 2
    )
    return (*stacks, left[-2], right[-1])


@rule("addmm", "baddbmm")
def added_product(step: Step) -> Labels:
    """Multiply two matrices and add a third tensor."""
    bias, one, other = step.args[:3]
    left, right = step.labels(one), step.labels(other)
    _contract(step, one, -1, other, -2)
    result = step.results[0]
    made = (result.shape, (*left[:-2], left[-2], right[-1]))
    return step.broadcast([made, (bias.shape, step.labels(bias))], result.ndim)


@rule("linear")
def linear(step: Step) -> Labels:
    """Apply a matrix (outputs, inputs) to the last axis."""
    tensor, weight = step.args[:2]
    seen, held = step.labels(tensor), step.labels(weight)
    _contract(step, tensor, -1, weight, 1)
    bias = step.arg(2, "bias")
    outputs = held[0] if bias is None else step.tie(held[0], step.labels(bias)[0])
    return (*seen[:-1], outputs)


@rule("mv", "addmv", "dot")
def vector_product(step: Step) -> Labels:
    """Multiply a matrix and a vector, both last of the arguments."""
    one, other = step.args[-2:]
    left, _right = step.labels(one), step.labels(other)
    _contract(step, one, -1, other, 0)
    made = (step.results[0].shape, left[:-1])
    operands = [made, *((a.shape, step.labels(a)) for a in step.args[:-2])]
    return step.broadcast(operands, step.results[0].ndim)
