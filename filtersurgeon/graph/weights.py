"""The layers that make and read channels: convolutions and linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from filtersurgeon.graph.graph import ChannelGraph
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Axis, Ids
from filtersurgeon.graph.record import Record

Values = TypeVar("Values", bound=Any)


@dataclass(frozen=True)
class WeightLayer:
    """A convolution or a linear layer.

    Attributes:
        name: the module's name.
        tensor: name of its weight.
        out_channels: labels of the channels that it makes, ``(out,)``.
        in_channels: labels of the channels that it reads, ``(in,)``; None for the network's input.
        groups: of the convolution; 1 for a linear layer.
        kernel: shape of a kernel; empty for a linear layer.
        transposed: whether the weight is (in, out/groups, ...) instead of (out, in/groups, ...).
    """

    name: str
    tensor: str
    out_channels: Axis
    in_channels: Axis
    groups: int
    kernel: tuple[int, ...]
    transposed: bool

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
        return _exchange_sides(stored, groups or self.groups) if self.transposed else stored

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
