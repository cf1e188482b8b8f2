"""The layers that make and read channels: convolutions, linear layers, and bare parameters.

A bare parameter is one that the network's own code gives to a convolution or a matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from filtersurgeon.graph.graph import ChannelGraph
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Axis, Ids
from filtersurgeon.graph.record import Record

Values = TypeVar("Values", bound=Any)


@dataclass(frozen=True)
class WeightLayer:
    """A convolution, a linear layer, or a bare parameter.

    Attributes:
        name: the module's name; of a bare parameter its own, or its module's if it is called
            ``weight``.
        tensor: name of its weight.
        out_channels: labels of the channels that it makes, ``(out,)``.
        in_channels: labels of the channels that it reads, ``(in,)``; None for the network's input.
        groups: of the convolution; 1 for a linear layer.
        kernel: shape of a kernel; empty for a linear layer and a bare parameter.
        transposed: whether the weight is (in, out/groups, ...) instead of (out, in/groups, ...).
        axis: of a bare parameter, the one along which its outputs lie; None for a module's weight.
    """

    name: str
    tensor: str
    out_channels: Axis
    in_channels: Axis
    groups: int
    kernel: tuple[int, ...]
    transposed: bool
    axis: int | None = None

    @property
    def is_spatial(self) -> bool:
        """Whether a kernel sees more than one position."""
        return prod(self.kernel) > 1

    def filters_first(self, stored: Values, groups: int | None = None) -> Values:
        """Put values in the order of the weight, one per kernel or more, as (out, in/groups, ...).

        Args:
            stored: an array or tensor whose first two axes are those of the weight.
            groups: of the layer, where some of them were cut.
        """
        if self.axis is not None:
            return stored.swapaxes(0, self.axis)
        return _exchange_sides(stored, groups or self.groups) if self.transposed else stored

    def count_channels(self, weight: Tensor) -> tuple[int, int]:
        """Count outputs and inputs before any removal."""
        if self.axis is not None:
            return weight.shape[self.axis], 0 if self.in_channels is None else len(self.in_channels)
        outer, inner = weight.shape[:2] if self.transposed else weight.shape[1::-1]
        if self.transposed:
            return inner * self.groups, outer
        return inner, outer * self.groups

    def as_stored(self, filters: Values, groups: int | None = None) -> Values:
        """Put values (out, in/groups, ...) in the order of the weight."""
        return _exchange_sides(filters, groups or self.groups) if self.transposed else filters


def _exchange_sides(values: Values, groups: int) -> Values:
    """Exchange outputs and inputs, (rows, columns/groups, ...) becomes (columns, rows/groups, ...).

    Doing so twice gives the values back.
    """
    rows, each, *rest = values.shape
    apart = values.reshape(groups, rows // groups, each, *rest)
    return apart.swapaxes(1, 2).reshape(groups * each, rows // groups, *rest)


def weight_layers(graph: ChannelGraph) -> list[WeightLayer]:
    """List the convolutions and linear layers of a network in the order of their modules."""
    runs = _convolutions(graph)
    layers = []
    for name, module in graph.network.named_modules():
        if not isinstance(module, _ConvNd | nn.Linear):
            continue
        weight = f"{name}.weight" if name else "weight"
        weight = graph.trace.aliases.get(weight, weight)
        labels = graph.trace.slots.get(weight)
        if labels is None:
            continue  # never used
        transposed = isinstance(module, _ConvTransposeNd)
        groups = getattr(module, "groups", 1)
        out_channels, in_channels = (labels[1], labels[0]) if transposed else (labels[0], labels[1])
        if groups > 1:
            # One axis of the weight has the labels of one group only.
            run = runs.get(weight)
            if transposed:
                out_channels = None if run is None else run.results[0].labels[1]
            else:
                in_channels = None if run is None else run.inputs[0].labels[1]
        kernel = tuple(module.weight.shape[2:])
        layers.append(
            WeightLayer(name, weight, out_channels, in_channels, groups, kernel, transposed)
        )
    return layers


_PRODUCTS = {"mm": 0, "bmm": 0, "matmul": 0, "addmm": 1, "baddbmm": 1}
"""Matrix products, and the place of the first factor among their tensors."""


def parameter_layers(graph: ChannelGraph, layers: Sequence[WeightLayer]) -> list[WeightLayer]:
    """List the bare parameters that make channels.

    A parameter makes the channels whose labels leave a convolution or a product, also where it was
    transposed, scaled or mixed before.

    Args:
        graph: the channels.
        layers: the layers that are modules.
    """
    known = {layer.tensor for layer in layers}
    sides = [side for record in graph.trace.records for side in _sides(record, known)]
    made = _join(out for out, _ in sides)
    if not len(made):
        return []
    read, names = _join(into for _, into in sides), {layer.name for layer in layers}
    found = []
    for tensor, parameter in graph.network.named_parameters():
        labels = graph.trace.slots.get(tensor, ())
        if tensor in known or parameter.ndim < 2:
            continue
        axis = next((n for n, ids in enumerate(labels) if _lies_in(ids, made)), None)
        if axis is None or parameter.numel() == parameter.shape[axis]:
            continue
        others = (ids for n, ids in enumerate(labels) if n != axis and _lies_in(ids, read))
        module, _, own = tensor.rpartition(".")
        name = module if own == "weight" and module and module not in names else tensor
        inputs = next(others, None)
        found.append(WeightLayer(name, tensor, labels[axis], inputs, 1, (), False, axis))
    return found


def _sides(record: Record, known: set[str]) -> Iterator[tuple[Axis, Axis]]:
    """Yield the axes that leave the factors of a convolution or product, and that are summed over.

    Args:
        record: of any operator.
        known: weights of modules, which are left out.
    """
    operator, seen = record.key[1], record.inputs
    if known.intersection(record.names):
        return
    if operator == "convolution":
        out, into = seen[1].labels[:2]
        yield (into, out) if record.answers.get("transposed") else (out, into)
    elif operator == "linear":
        yield seen[1].labels[0], seen[1].labels[1]
    elif operator == "bilinear":
        yield seen[2].labels[0], seen[2].labels[1]
    elif operator in _PRODUCTS:
        left, right = seen[_PRODUCTS[operator] :][:2]
        yield left.labels[-2], left.labels[-1]
        yield right.labels[-1], right.labels[-2]


def _join(axes: Iterator[Axis]) -> Ids:
    return np.unique(np.concatenate([np.empty(0, np.int64), *(x for x in axes if x is not None)]))


def _lies_in(axis: Axis, ids: Ids) -> bool:
    """Tell whether an axis has channels, all of them among some."""
    if axis is None or not (axis >= 0).any():
        return False
    return bool(np.isin(axis[axis >= 0], ids).all())


def _convolutions(graph: ChannelGraph) -> dict[str, Record]:
    return {
        record.names[1]: record
        for record in graph.trace.records
        if record.key[1] == "convolution" and record.names[1] is not None
    }


def count_kept(axis: Axis, size: int, keep: Mask, of: Ids) -> int:
    """Count the indices of an axis that are kept.

    Args:
        axis: its labels.
        size: its length.
        keep: group -> whether it is kept.
        of: label -> group.
    """
    if axis is None:
        return size
    channels = axis[axis >= 0]
    return size - len(channels) + int(keep[of[channels]].sum())
