"""Finding the sparsity that reaches a size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from filtersurgeon.errors import OptionError
from filtersurgeon.graph.cost import CostModel
from filtersurgeon.pruning.plan import Plan
from filtersurgeon.registry import read_share

QUANTITIES = ("params", "macs", "latency")
_HALVINGS = 24
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9}
_TIMES = {"ms": 1e-3, "s": 1.0, "us": 1e-6}


@dataclass(frozen=True)
class Target:
    """A size to reach.

    Attributes:
        quantity: ``params``, ``macs`` or ``latency``.
        share: of the network as it is; None where the amount is given.
        amount: parameters, operations, or seconds; None where the share is given.
    """

    quantity: str
    share: float | None
    amount: float | None = None

    def wanted(self, whole: float) -> float:
        """Give the size to reach, of a network that has this size."""
        if self.amount is not None:
            return self.amount
        assert self.share is not None
        return self.share * whole

    def __str__(self) -> str:
        if self.share is not None:
            return f"{self.quantity}={self.share:g}x"
        if self.quantity == "latency":
            return f"latency={1e3 * (self.amount or 0):g}ms"
        return f"{self.quantity}={self.amount:g}"


def read_target(words: str) -> Target:
    """Read ``params=0.2x``, ``macs=200M`` or ``latency=12ms``.

    A percentage is a share, and so is a number up to 1, with or without the x. A larger number, or
    one with a unit (k, M, G; us, ms, s), is an amount.

    Raises:
        OptionError: it reads otherwise, or the share is not between 0 and 1.
    """
    quantity, _, size = words.partition("=")
    found = _read_size(quantity.strip(), size.strip().lower())
    if found is None:
        raise OptionError(
            f"`target` {words} should read macs=0.5x, params=0.2x or latency=0.7x, or an amount "
            "such as macs=200M, params=1.5M or latency=12ms"
        )
    return found


def _read_size(quantity: str, size: str) -> Target | None:
    if quantity not in QUANTITIES:
        return None
    units = _TIMES if quantity == "latency" else _UNITS
    number = size.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = size[len(number) :]
    try:
        value = read_share(number)
    except ValueError:
        return None
    if unit == "x" or number.endswith("%") or (not unit and value <= 1):
        return Target(quantity, value) if 0 < value <= 1 else None
    if unit not in units or not 0 < value < float("inf"):
        return None
    return Target(quantity, None, value * units[unit])


def reach(target: Target, model: CostModel, plan_at: Callable[[float], Plan]) -> tuple[float, Plan]:
    """Find the smallest sparsity whose plan is as small as the target.

    Args:
        target: what to reach.
        model: counts.
        plan_at: makes the plan of a sparsity.

    Returns:
        The sparsity, to one part in 2**24, and its plan.

    Raises:
        OptionError: the largest cut is still larger, or the target is a latency.
    """
    if target.quantity == "latency":
        raise OptionError(
            f"`target` {target} needs `data` and the measured allocation; leave the method out"
        )

    def size(plan: Plan) -> int:
        cost = model.cost(plan.keep)
        return cost.parameters if target.quantity == "params" else cost.macs

    whole = plan_at(0.0)
    wanted = target.wanted(_all(model, whole, target.quantity))
    low, high = 0.0, 1.0 - 2.0**-_HALVINGS
    best = plan_at(high)
    if size(best) > wanted:
        least = size(best) / _all(model, whole, target.quantity)
        raise OptionError(
            f"`target` {target} cannot be reached: the most that can be cut leaves {least:.3f}x"
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
