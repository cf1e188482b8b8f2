"""Conditions under which the results of an operator are silent.

A tensor is silent if it is zero at every index whose channel is removed. The weights, shifts and
biases of a removed channel are zero, so the output of a convolution is zero there; it stays so
through a ReLU but not through a sigmoid. Only where a tensor is silent may its
channels be summed over: the sum over the channels that are kept is then the sum over all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.record import tensors

Condition = Callable[[Step, Sequence[Labels]], bool]
"""Tells of a call and the labels of its results whether these are silent."""


def never(_step: Step, _made: Sequence[Labels]) -> bool:
    """Take no result as silent."""
    return False


def always(_step: Step, _made: Sequence[Labels]) -> bool:
    """Take the results as silent, since they are zero everywhere."""
    return True


def if_all_silent(step: Step, _made: Sequence[Labels]) -> bool:
    """Zeros stay zeros: silent where all channels that come in are."""
    return all(step.silent(tensor) or not has_labels(step, tensor) for tensor in tensors(step.args))


def all_hold(step: Step, made: Sequence[Labels]) -> bool:
    """Take results as true where all operands are, and span every axis of channels."""
    given = tensors(step.args)
    return bool(given) and all(step.holds(x) and is_as_long(step, x, made[0]) for x in given)


def has_labels(step: Step, tensor: Tensor) -> bool:
    """Tell whether a tensor has channels along any axis."""
    return any(axis is not None for axis in step.labels(tensor))


def spans(step: Step, tensor: Tensor, made: Labels) -> bool:
    """Tell whether a tensor is silent, and as long as the result along every axis of channels."""
    return step.silent(tensor) and is_as_long(step, tensor, made)


def is_as_long(step: Step, tensor: Tensor, made: Labels) -> bool:
    """Tell whether a tensor is as long as the result along every axis of channels."""
    shape, result = tensor.shape, step.results[0].shape
    missing = len(made) - len(shape)
    return all(
        axis is None or (place >= missing and shape[place - missing] == result[place])
        for place, axis in enumerate(made)
    )


def has_silent_weight(step: Step, others: Labels) -> bool:
    """Check a convolution or linear layer, whose outputs come from weight and bias.

    Args:
        step: the call, with input, weight and bias.
        others: labels of the axes of its input that it does not sum over.
    """
    tensor, weight, *_ = step.args
    bias: Any = step.arg(2, "bias")
    return (
        step.silent(weight)
        and (bias is None or step.silent(bias))
        and (step.silent(tensor) or all(axis is None for axis in others))
    )
