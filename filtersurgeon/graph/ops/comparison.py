"""Comparisons, and logic of their results.

What a removed channel leaves behind is a zero in many tensors, so that a comparison with a number
has a known result there. Whether all or any of such results hold does not depend on them.
"""

from __future__ import annotations

import operator as python
from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import operator
from filtersurgeon.graph.ops.elementwise import elementwise
from filtersurgeon.graph.record import tensors
from filtersurgeon.graph.zeros import all_hold, always, if_all_silent, is_as_long, spans

_COMPARE = {
    "eq": python.eq,
    "ne": python.ne,
    "lt": python.lt,
    "le": python.le,
    "gt": python.gt,
    "ge": python.ge,
}


def _result(step: Step) -> bool | None:
    """Give the result of a comparison where a removed channel was, if it is known.

    What is there is finite, and zero where the tensor is silent.
    """
    compare = _COMPARE[step.operator]
    one, other = step.args[:2]
    if one is other:
        return compare(0, 0)
    if isinstance(other, Tensor):
        return None
    return compare(0, other) if other in (inf, -inf) or step.silent(one) else None


def _is_false(step: Step, _made: Sequence[Labels]) -> bool:
    return _result(step) is False


def _is_true(step: Step, _made: Sequence[Labels]) -> bool:
    return _result(step) is True


def _one_holds(step: Step, made: Sequence[Labels]) -> bool:
    return any(
        step.holds(tensor) and is_as_long(step, tensor, made[0]) for tensor in tensors(step.args)
    )


def _one_is_silent(step: Step, made: Sequence[Labels]) -> bool:
    return any(spans(step, tensor, made[0]) for tensor in tensors(step.args))


def _all_are_true(step: Step, made: Sequence[Labels]) -> bool:
    """Take masks as true where all operands are; bits of other types tell nothing."""
    return step.results[0].dtype == torch.bool and all_hold(step, made)


@operator(*_COMPARE, zero_preserving=_is_false, truth_preserving=_is_true)
@operator("isnan", "isinf", "isposinf", "isneginf", zero_preserving=always)
@operator("logical_not", zero_preserving=all_hold, truth_preserving=if_all_silent)
@operator("bitwise_not", zero_preserving=_all_are_true, truth_preserving=if_all_silent)
@operator("logical_and", zero_preserving=_one_is_silent, truth_preserving=all_hold)
@operator("bitwise_and", zero_preserving=_one_is_silent, truth_preserving=_all_are_true)
@operator("logical_or", "bitwise_or", zero_preserving=if_all_silent, truth_preserving=_one_holds)
def compare(step: Step) -> Labels | list[Labels]:
    """Tie all operands, element by element."""
    return elementwise(step)
