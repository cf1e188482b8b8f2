"""What a network costs, as it is and with fewer channels, from its trace alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from filtersurgeon.graph.graph import ChannelGraph
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Axis
from filtersurgeon.graph.ops.convolution import TRANSPOSED
from filtersurgeon.graph.record import Record, Seen

_Term = list[tuple[int, Axis]]
"""Lengths to multiply, each with its labels."""

_PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "matmul", "linear")


@dataclass(frozen=True)
class Cost:
    """Size and work of a network.

    Attributes:
        parameters: number of learned values.
        macs: multiplications with an addition in convolutions, matrix products, attention and
            recurrent layers, of one image.
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
        self._terms: tuple[list[_Term], list[_Term]] = ([], [])
        parameters, macs = self._terms
        for name, parameter in graph.network.named_parameters():
            labels = slots.get(name, (None,) * parameter.ndim)
            parameters.append(list(zip(parameter.shape, labels, strict=True)))
        macs += [term for record in graph.trace.records for term in _work(record)]

    def cost(self, keep: Mask) -> Cost:
        """Give the cost with only some groups kept.

        Args:
            keep: group -> whether it is kept.
        """
        parameters, macs = (
            sum(prod(self._length(size, axis, keep) for size, axis in term) for term in terms)
            for terms in self._terms
        )
        return Cost(parameters, macs)

    def terms(self, quantity: str) -> Sequence[_Term]:
        """Give the products whose sum is a quantity, each a list of lengths with their labels.

        Args:
            quantity: ``params`` or ``macs``.
        """
        return self._terms[("params", "macs").index(quantity)]

    def _length(self, size: int, axis: Axis, keep: Mask) -> int:
        if axis is None:
            return size
        gone = axis[axis >= 0]
        return size - int(np.count_nonzero(~keep[self._of[gone]]))


def _work(record: Record) -> list[_Term]:
    """Give for each product inside an operator the axes whose lengths multiply to its work."""
    operator = record.key[1]
    if operator == "convolution":
        weight, image, made = record.inputs[1], record.inputs[0], record.results[0]
        space = image if record.answers.get(TRANSPOSED) else made
        return [[*_axes(weight), (space.shape[0], None), *_bare(space.shape[2:])]]
    if operator in _PRODUCTS:
        first = record.inputs[0] if operator in ("linear", "matmul") else record.inputs[-2]
        made = record.results[0]
        return [[*_axes(made), _axes(first)[-1]]]
    if "scaled_dot_product" in operator:
        query, key = record.inputs[:2]
        places = _axes(key)[-2]
        return [[*_axes(query), places], [*_axes(record.results[0]), places]]
    if operator == "lstm":
        steps = _bare(record.inputs[0].shape[:-1])
        return [[*steps, *_axes(weight)] for weight in record.inputs[3:] if len(weight.shape) == 2]
    return []


def _axes(seen: Seen) -> _Term:
    return list(zip(seen.shape, seen.labels, strict=True))


def _bare(shape: Sequence[int]) -> _Term:
    return [(size, None) for size in shape]
