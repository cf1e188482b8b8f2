"""Operators that make tensors out of nothing."""

from __future__ import annotations

import numpy as np

from filtersurgeon.graph.labels import UNIFORM, Labels, Step
from filtersurgeon.graph.ops import rule


@rule(
    "empty",
    "zeros",
    "ones",
    "full",
    "new_empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "empty_strided",
    "new_empty_strided",
    "scalar_tensor",
    "fill",
    "zero",
)
def uniform(step: Step) -> Labels:
    """One value everywhere: as long as anything that it meets, if its size follows."""
    return tuple(None if n == 1 else np.full(n, UNIFORM) for n in step.results[0].shape)


@rule("empty_like", "zeros_like", "ones_like", "full_like")
def like(step: Step) -> Labels:
    """One value, in the shape of another tensor."""
    return step.labels(step.args[0])


@rule("arange", "linspace", "eye", "randn", "rand", "_efficientzerotensor", "randperm", "tril")
def constant(step: Step) -> Labels:
    """Values of their own, whose number nothing makes smaller."""
    return (None,) * step.results[0].ndim
