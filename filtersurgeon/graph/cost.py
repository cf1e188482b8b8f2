"""What a network costs, as it is and with fewer channels, from its trace alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from filtersurgeon.graph.graph import ChannelGraph
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Axis
from filtersurgeon.graph.record import Record

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear")


@dataclass(frozen=True)
class Cost:
    """Size and work of a network.

    Attributes:
        parameters: number of learned values.
        macs: multiplications with an addition in convolutions and matrix products, of one image.
    """

    parameters: int
    macs: int


class CostModel:
    """Counts what is left of a network's parameters and work.

    Args:
        graph: the network's channels.
    """

    def __init__(self, graph: ChannelGraph) -> None:
        self._of = graph.groups.of
        slots = graph.trace.slots
        self._terms: tuple[list[list[tuple[int, Axis]]], list[list[tuple[int, Axis]]]] = ([], [])
        parameters, macs = self._terms
        for name, parameter in graph.network.named_parameters():
            labels = slots.get(name, (None,) * parameter.ndim)
            parameters.append(list(zip(parameter.shape, labels, strict=True)))
        macs += [term for record in graph.trace.records if (term := _work(record))]

    def cost(self, left: Mask) -> Cost:
        """Give the cost with only some groups left.

        Args:
            left: group -> whether it is left.
        """
        parameters, macs = (
            sum(prod(self._length(size, axis, left) for size, axis in term) for term in terms)
            for terms in self._terms
        )
        return Cost(parameters, macs)

    def _length(self, size: int, axis: Axis, left: Mask) -> int:
        if axis is None:
            return size
        gone = axis[axis >= 0]
        return size - int(np.count_nonzero(~left[self._of[gone]]))


def _work(record: Record) -> list[tuple[int, Axis]]:
    """Give the axes whose lengths multiply to the work of an operator."""
    operator = record.key[1]
    if operator == "convolution":
        weight, image, made = record.inputs[1], record.inputs[0], record.results[0]
        axes = list(zip(weight.shape, weight.labels, strict=True))
        transposed = weight.shape[0] == image.shape[1] and weight.shape[0] != made.shape[1]
        space = image if transposed else made
        return [*axes, (space.shape[0], None), *((size, None) for size in space.shape[2:])]
    if operator in _PRODUCTS:
        first = record.inputs[0] if operator in ("linear", "matmul") else record.inputs[-2]
        made = record.results[0]
        summed = (first.shape[-1], first.labels[-1])
        return [*zip(made.shape, made.labels, strict=True), summed]
    return []
