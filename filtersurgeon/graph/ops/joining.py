"""Operators that lay tensors beside each other, and that take them apart again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.graph.labels import CONSTANT, UNIFORM, Labels, Step
from filtersurgeon.graph.ops import operator
from filtersurgeon.graph.shapes import Made, like
from filtersurgeon.graph.zeros import if_all_silent


def _shape(tensors: Sequence[Tensor], dim: int = 0) -> Made | None:
    first = tensors[0]
    kinds = {(tensor.ndim, tensor.dtype, tensor.is_meta) for tensor in tensors}
    if kinds != {(first.ndim, first.dtype, True)}:
        return None
    shape = list(first.shape)
    shape[dim] = 0
    for tensor in tensors:
        other = list(tensor.shape)
        other[dim] = 0
        if other != shape:
            raise RuntimeError("the tensors do not fit beside each other")
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return torch.ops.aten.cat.default, (tensors, dim), [like(first, shape)]


@operator(
    "cat",
    "concat",
    equivariant=True,
    zero_preserving=if_all_silent,
    shapes={torch.cat: _shape},
)
def cat(step: Step) -> Labels:
    """Lay tensors end to end."""
    result = step.results[0]
    dim = step.arg(1, "dim", 0) % result.ndim
    parts = [tensor for tensor in step.args[0] if tensor.ndim == result.ndim]
    labels = [step.labels(tensor) for tensor in parts]
    axes = list(
        step.broadcast(
            [
                ((*p.shape[:dim], 1, *p.shape[dim + 1 :]), (*x[:dim], None, *x[dim + 1 :]))
                for p, x in zip(parts, labels, strict=True)
            ],
            result.ndim,
        )
    )
    along = [x[dim] for x in labels]
    if any(axis is not None for axis in along):
        axis = np.concatenate(
            [
                np.full(p.shape[dim], CONSTANT) if axis is None else axis
                for p, axis in zip(parts, along, strict=True)
            ]
        )
        # Equal values beside channels have a fixed place there.
        axes[dim] = axis if (axis == UNIFORM).all() else np.where(axis < 0, CONSTANT, axis)
    return tuple(axes)


@operator("stack", zero_preserving=if_all_silent)
def stack(step: Step) -> Labels:
    """Lay tensors side by side along a new axis."""
    parts = step.args[0]
    ndim = step.results[0].ndim
    axes = step.broadcast([(p.shape, step.labels(p)) for p in parts], ndim - 1)
    dim = step.arg(1, "dim", 0) % ndim
    return (*axes[:dim], None, *axes[dim:])


@operator("select", zero_preserving=if_all_silent)
def select(step: Step) -> Labels:
    """Take one index of an axis."""
    labels = list(step.labels(step.args[0]))
    step.pin(labels.pop(step.args[1]), "taken one by one")
    return tuple(labels)


@operator("unbind", zero_preserving=if_all_silent)
def unbind(step: Step) -> list[Labels]:
    """Take every index of an axis by itself."""
    labels = list(step.labels(step.args[0]))
    step.pin(labels.pop(step.arg(1, "dim", 0)), "taken one by one")
    return [tuple(labels)] * len(step.results)
