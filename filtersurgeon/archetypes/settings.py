"""The options that every entry point of the solver shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from filtersurgeon.errors import OptionError, near_misses

STARTS = ("successive-projection", "convex-hull", "furthest-sum")


class Options(TypedDict, total=False):
    """Keywords of the solver; `Settings` says what they mean and holds their defaults."""

    init: str
    n_init: int | None
    tol: float
    max_iter: int
    random_state: int
    coreset_size: int | None
    device: str | None


@dataclass(frozen=True)
class Settings:
    """How to solve.

    Attributes:
        init: filters to start from: ``successive-projection`` (each the farthest from the span
            of those before), ``convex-hull`` (the farthest from their hull; often a little better
            and a little slower) or ``furthest-sum``, which alone draws something at random.
        n_init: how many starts to try, `init` first; the best solution is kept. None tries 4 in
            layers of up to 128 filters, where that takes milliseconds, and one in wider ones.
        tol: stop when a sweep over A and B lowers the objective by less than this share of it
            (or of a thousandth of the spread, if that is more), and the Frank-Wolfe duality gap
            met in that sweep is below 100 times this share of the spread, which is the objective
            of a single archetype at the mean.
        max_iter: sweeps at most.
        random_state: seed of everything drawn at random.
        coreset_size: find the archetypes from a weighted sample of so many filters only, for
            layers that are too wide for their Gram matrix; None takes all of them. All filters
            are modelled either way.
        device: where PyTorch alternates, such as ``cuda``; None stays with the compiled code
            for the CPU.
    """

    init: str = "successive-projection"
    n_init: int | None = None
    tol: float = 1e-5
    max_iter: int = 300
    random_state: int = 0
    coreset_size: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.init not in STARTS:
            raise OptionError(f"unknown start {self.init!r}{near_misses(self.init, STARTS)}")
        if self.n_init is not None and self.n_init < 1:
            raise OptionError(f"at least one start is needed, not {self.n_init}")
        if not 0 <= self.tol < 1:
            raise OptionError(f"the tolerance must be in [0, 1), not {self.tol}")
        if self.max_iter < 1:
            raise OptionError(f"at least one sweep is needed, not {self.max_iter}")
        if self.coreset_size is not None and self.coreset_size < 1:
            raise OptionError(f"a coreset needs at least one filter, not {self.coreset_size}")
