"""Operators that reduce axes, pool over positions, or resize them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from filtersurgeon.errors import GraphError
from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import Sum, declare, operator
from filtersurgeon.graph.record import Record
from filtersurgeon.graph.shapes import Made, is_plain, like
from filtersurgeon.graph.zeros import if_all_silent

_MATTERS = "reduced over in a way that zeros change"

# Modules that average over their channels and can make up for removed ones. Global response
# normalisation (Woo et al., ConvNeXt V2, Eq. 2) divides the energy of each channel by the mean
# over channels. Channels of zeros add nothing to the sum but count in the mean; without them, the
# learned scale times (channels before / channels kept) gives the same output.
_AVERAGING = re.compile("grn|global_?response", re.IGNORECASE)
_SCALES = ("weight", "gamma", "scale", "alpha")


def rescales_averages(module_class: str) -> bool:
    """Tell whether a class of modules can make up for removed channels."""
    return _AVERAGING.search(module_class) is not None


def scale_of(module: nn.Module) -> str:
    """Name the parameter that is multiplied by (channels before / channels kept).

    Raises:
        GraphError: it has none of a known name.
    """
    own = module._parameters
    for name in _SCALES:
        if own.get(name) is not None:
            return name
    raise GraphError(
        f"{type(module).__name__} averages over its channels, and none of its parameters is "
        f"called {', '.join(_SCALES[:-1])} or {_SCALES[-1]}; leave its layers out with `layers`"
    )


def _axes(dims: int | Iterable[int] | None, ndim: int) -> set[int]:
    if dims is None or dims == []:
        return set(range(ndim))
    return {dim % ndim for dim in ([dims] if isinstance(dims, int) else dims)} if ndim else set()


def _without(step: Step, labels: Labels, dims: set[int]) -> Labels | list[Labels]:
    kept = len(step.results[0].shape) == len(labels)
    left = tuple(
        None if axis in dims else axis_labels
        for axis, axis_labels in enumerate(labels)
        if kept or axis not in dims
    )
    return left if len(step.results) == 1 else [left] * len(step.results)


def _sum(_record: Record) -> Sum:
    return Sum()


@operator(
    "sum",
    "linalg_vector_norm",
    "norm",
    equivariant=True,
    zero_preserving=if_all_silent,
    sums=_sum,
)
def sums(step: Step) -> Labels | list[Labels]:
    """Add up: channels that carry zeros do not matter."""
    labels = step.labels(step.args[0])
    position = 2 if step.operator in ("linalg_vector_norm", "norm") else 1
    dims = _axes(step.arg(position, "dim"), len(labels))
    for axis in dims:
        step.add_up(labels[axis], step.args[0])
    return _without(step, labels, dims)


def _shape_of_mean(
    tensor: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False
) -> Made | None:
    if dim is None or not is_plain(tensor):
        return None
    dims = [dim] if isinstance(dim, int) else list(dim)
    gone = {axis % tensor.ndim for axis in dims}
    if not gone:
        return None
    sizes = [1 if axis in gone else size for axis, size in enumerate(tensor.shape)]
    shape = [size for axis, size in enumerate(sizes) if keepdim or axis not in gone]
    return torch.ops.aten.mean.dim, (tensor, dims, keepdim), [like(tensor, shape)]


def _shape_of_pooling(tensor: Tensor, output_size: int | Sequence[int | None]) -> Made | None:
    if output_size not in (1, (1, 1), [1, 1]):
        return None
    return _shape_of_mean(tensor, [-1, -2], True)


@operator(
    "mean",
    equivariant=True,
    zero_preserving=if_all_silent,
    shapes={
        **dict.fromkeys((torch.mean, Tensor.mean), _shape_of_mean),
        functional.adaptive_avg_pool2d: _shape_of_pooling,
    },
    sums=_sum,
)
def mean(step: Step) -> Labels | list[Labels]:
    """Average: over channels, their number matters, unless the module is known."""
    labels = step.labels(step.args[0])
    dims = _axes(step.arg(1, "dim"), len(labels))
    for axis in dims:
        averaged = labels[axis]
        step.reduce(averaged)
        if (
            averaged is not None
            and rescales_averages(step.module_class)
            and step.silent(step.args[0])
        ):
            step.averaged.append(averaged)
        else:
            step.pin(averaged, "averaged over")
    return _without(step, labels, dims)


_COUNTLESS = frozenset({"any", "all", "amax", "amin", "max", "min"})
"""Reductions of equal values to one of them, however many there are."""


def _is_neutral(step: Step) -> bool:
    """Tell whether a reduction gives the same without the values of removed channels."""
    if step.operator == "all":
        return step.holds(step.args[0])
    return step.operator in ("any", "count_nonzero") and step.silent(step.args[0])


@operator("amax", "amin", zero_preserving=if_all_silent)
@operator(
    "var",
    "std",
    "var_mean",
    "std_mean",
    "max",
    "min",
    "prod",
    "any",
    "all",
    "argmax",
    "argmin",
    "median",
    "logsumexp",
    "count_nonzero",
)
def statistics(step: Step) -> Labels | list[Labels]:
    """Reduce in a way that depends on the number of channels, unless those removed are neutral."""
    labels = step.labels(step.args[0])
    dims = _axes(step.arg(1, "dim"), len(labels))
    for axis in dims:
        if step.operator not in _COUNTLESS:
            step.reduce(labels[axis])
        if not _is_neutral(step):
            step.pin(labels[axis], _MATTERS)
    return _without(step, labels, dims)


@operator(
    "_softmax",
    "_log_softmax",
    "cumsum",
    "topk",
    "sort",
    "_safe_softmax",
    "cummax",
    equivariant=True,
)
def along(step: Step) -> Labels | list[Labels]:
    """Work along one axis, every element of which depends on the others."""
    labels = list(step.labels(step.args[0]))
    position = 2 if step.operator == "topk" else 1
    axis = step.arg(position, "dim", -1)
    step.reduce(labels[axis])
    step.pin(labels[axis], _MATTERS)
    labels[axis] = None
    return tuple(labels) if len(step.results) == 1 else [tuple(labels)] * len(step.results)


def _run_pooling(func: Any, args: Any, kwargs: Any) -> Any:
    """Pool as usual: the maximum with a NaN is NaN, and the indices are not used as values."""
    return func(*args, **kwargs)


declare("fractional_max_pool2d", "fractional_max_pool3d", run_with_nan=_run_pooling)


@operator(
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "max_pool2d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    equivariant=True,
    zero_preserving=if_all_silent,
    run_with_nan=_run_pooling,
)
@operator(
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_linear1d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "upsample_nearest3d",
    "upsample_trilinear3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    equivariant=True,
    zero_preserving=if_all_silent,
)
def positions(step: Step) -> Labels | list[Labels]:
    """Pool, resize or pad the positions: every axis after the channels."""
    labels = step.labels(step.args[0])
    spatial = 1 if "1d" in step.operator else 3 if "3d" in step.operator else 2
    for axis in labels[-spatial:]:
        step.pin(axis, "used as positions")
    left = (*labels[:-spatial], *(None for _ in range(spatial)))
    return left if len(step.results) == 1 else [left] * len(step.results)
