"""Operators that act on every element by itself."""

from __future__ import annotations

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import rule


# PyTorch does not tag these as pointwise, though they are.
@rule("hardswish", "hardsigmoid", "hardtanh", "where", "masked_fill", "prelu", "_prelu_kernel")
def elementwise(step: Step) -> Labels | list[Labels]:
    """Tie all operands; this is the rule of every operator that PyTorch tags as pointwise."""
    from torch import Tensor

    tensors = [arg for arg in (*step.args, *step.kwargs.values()) if isinstance(arg, Tensor)]
    operands = [(tensor.shape, step.labels(tensor)) for tensor in tensors]
    if len(operands) == 1 and step.results[0].shape == operands[0][0]:
        return operands[0][1]
    return step.broadcast(operands, step.results[0].ndim)


@rule("native_dropout")
def same(step: Step) -> Labels | list[Labels]:
    """Pass the labels of the only operand."""
    labels = step.labels(step.args[0])
    return labels if len(step.results) == 1 else [labels] * len(step.results)


@rule("copy")
def copy(step: Step) -> Labels:
    """Write into a tensor, element by element."""
    target, source = step.args[0], step.args[1]
    operands = [(tensor.shape, step.labels(tensor)) for tensor in (target, source)]
    return step.broadcast(operands, target.ndim)
