"""Operators that make tensors out of nothing."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from filtersurgeon.graph.labels import UNIFORM, Labels, Step
from filtersurgeon.graph.ops import operator
from filtersurgeon.graph.zeros import always


@operator("empty", "ones", "new_empty", "new_ones", "empty_strided", "new_empty_strided")
@operator("full", "new_full", "scalar_tensor", calculates=True)
@operator("fill", calculates=True, keeps_labels=True)
@operator("zeros", "new_zeros", zero_preserving=always)
@operator("zero", zero_preserving=always, keeps_labels=True)
def uniform(step: Step) -> Labels:
    """One value everywhere: as long as anything that it meets, if its size follows."""
    return tuple(None if n == 1 else np.full(n, UNIFORM) for n in step.results[0].shape)


@operator("empty_like", "ones_like")
@operator("full_like", calculates=True)
@operator("zeros_like", zero_preserving=always)
def like(step: Step) -> Labels:
    """One value, in the shape of another tensor."""
    return step.labels(step.args[0])


@operator("arange", "linspace", "eye", "randn", "rand", "_efficientzerotensor", "randperm", "tril")
def constant(step: Step) -> Labels:
    """Values of their own, whose number nothing makes smaller."""
    return (None,) * step.results[0].ndim


@operator("randn_like", "rand_like", "randint_like", "bernoulli", "normal", "uniform")
def noise(step: Step) -> Labels:
    """Draw random values: where every channel has its own, fewer channels change all of them."""
    tensors = [arg for arg in step.args if isinstance(arg, Tensor)]
    for axis in (axis for tensor in tensors for axis in step.labels(tensor)):
        step.pin(axis, "random values are drawn for every channel")
    return (None,) * step.results[0].ndim
