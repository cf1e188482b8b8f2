"""Finding the sparsity that reaches a size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from filtersurgeon.errors import OptionError
from filtersurgeon.graph.cost import CostModel
from filtersurgeon.pruning.plan import Plan

QUANTITIES = ("params", "macs")
_HALVINGS = 24


@dataclass(frozen=True)
class Target:
    """A size to reach.

    Attributes:
        quantity: ``params`` or ``macs``.
        share: of the network as it is.
    """

    quantity: str
    share: float


def read_target(words: str) -> Target:
    """Read ``params=0.2x`` or ``macs=0.5x``; the x may be left out.

    Raises:
        OptionError: it reads otherwise, or the share is not between 0 and 1.
    """
    quantity, _, share = words.partition("=")
    try:
        number = float(share.removesuffix("x"))
    except ValueError:
        number = -1.0
    if quantity not in QUANTITIES or not 0 < number <= 1:
        raise OptionError(f"`target` {words} should read params=0.2x or macs=0.5x")
    return Target(quantity, number)


def reach(target: Target, model: CostModel, plan_at: Callable[[float], Plan]) -> tuple[float, Plan]:
    """Find the smallest sparsity whose plan is as small as the target.

    Args:
        target: what to reach.
        model: counts.
        plan_at: makes the plan of a sparsity.

    Returns:
        The sparsity, to one part in 2**24, and its plan.

    Raises:
        OptionError: the largest cut is still larger.
    """

    def size(plan: Plan) -> int:
        cost = model.cost(plan.keep)
        return cost.parameters if target.quantity == "params" else cost.macs

    whole = plan_at(0.0)
    wanted = target.share * _all(model, whole, target.quantity)
    low, high = 0.0, 1.0 - 2.0**-_HALVINGS
    best = plan_at(high)
    if size(best) > wanted:
        least = size(best) / _all(model, whole, target.quantity)
        raise OptionError(
            f"`target` {target.quantity}={target.share:g}x cannot be reached: "
            f"the most that can be cut leaves {least:.3f}x"
        )
    if size(whole) <= wanted:
        return 0.0, whole
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        plan = plan_at(middle)
        if size(plan) <= wanted:
            high, best = middle, plan
        else:
            low = middle
    return high, best


def _all(model: CostModel, plan: Plan, quantity: str) -> int:
    cost = model.cost(plan.keep | True)
    return cost.parameters if quantity == "params" else cost.macs
