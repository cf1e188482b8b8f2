"""How far the outputs of two networks are apart."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isfinite
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Difference:
    """Differences of two networks' outputs on the same inputs.

    The relative difference of one input is ``||b - a||_2 / ||a||_2`` over its outputs; it is
    infinite where either output is not finite.

    Attributes:
        n_inputs: how many inputs.
        relative_max: largest relative difference.
        relative_sum: summed over the inputs.
        absolute_max: largest difference of any single output.
        same_class: inputs for which both have the same greatest output.
    """

    n_inputs: int = 0
    relative_max: float = 0.0
    relative_sum: float = 0.0
    absolute_max: float = 0.0
    same_class: int = 0

    @property
    def relative_mean(self) -> float:
        """Mean relative difference over the inputs."""
        return self.relative_sum / self.n_inputs if self.n_inputs else 0.0

    @property
    def agreement(self) -> float:
        """Part of the inputs with the same top-1 class, in 0..1."""
        return self.same_class / self.n_inputs if self.n_inputs else 1.0

    def __add__(self, other: Difference) -> Difference:
        """Join the differences on two sets of inputs."""
        return Difference(
            self.n_inputs + other.n_inputs,
            max(self.relative_max, other.relative_max),
            self.relative_sum + other.relative_sum,
            max(self.absolute_max, other.absolute_max),
            self.same_class + other.same_class,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give the JSON form, in which null stands for a number that is not finite."""
        return {
            "n_inputs": self.n_inputs,
            "relative_max": _finite(self.relative_max),
            "relative_mean": _finite(self.relative_mean),
            "absolute_max": _finite(self.absolute_max),
            "same_class": self.same_class,
            "agreement": self.agreement,
        }


def output_difference(first: Tensor, second: Tensor) -> Difference:
    """Compare two batches of outputs.

    Args:
        first: (inputs, classes), the reference.
        second: the same shape.

    Raises:
        DataError: the shapes differ.
    """
    if first.shape != second.shape:
        raise DataError(
            f"the networks' outputs differ in shape: {tuple(first.shape)} and {tuple(second.shape)}"
        )
    a, b = first.flatten(1).double(), second.flatten(1).double()
    gap = (b - a).nan_to_num(nan=inf, posinf=inf, neginf=inf)
    distance, size = gap.norm(dim=1), a.norm(dim=1)
    # Equal zeros do not differ; anything else is infinitely far from zero.
    relative = (distance / size).where(distance > 0, 0.0).nan_to_num(nan=inf, posinf=inf)
    return Difference(
        n_inputs=len(a),
        relative_max=float(relative.max()),
        relative_sum=float(relative.sum()),
        absolute_max=float(gap.abs().max()),
        same_class=int((a.argmax(1) == b.argmax(1)).sum()),
    )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
