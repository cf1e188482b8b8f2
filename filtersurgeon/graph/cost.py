"""What a network costs, as it is and with fewer channels, from its trace alone."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from math import prod

import numpy as np

from filtersurgeon.graph.graph import ChannelGraph
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Axis
from filtersurgeon.graph.record import Term


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
        # Products of lengths, each with the names of the tensors that it belongs to.
        self._terms: tuple[list[tuple[Term, Set[str]]], list[tuple[Term, Set[str]]]] = ([], [])
        parameters, macs = self._terms
        for name, parameter in graph.network.named_parameters():
            labels = slots.get(name, (None,) * parameter.ndim)
            parameters.append((list(zip(parameter.shape, labels, strict=True)), {name}))
        for record in graph.trace.records:
            if record.operator.work is not None:
                names = set(filter(None, record.names))
                macs += [(term, names) for term in record.operator.work(record)]

    def cost(self, keep: Mask, without: Set[str] = frozenset()) -> Cost:
        """Give the cost with only some groups kept.

        Args:
            keep: group -> whether it is kept.
            without: names of weights that go whole, with what is done with them.
        """
        parameters, macs = (
            sum(
                prod(self._length(size, axis, keep) for size, axis in term)
                for term, names in terms
                if not names & without
            )
            for terms in self._terms
        )
        return Cost(parameters, macs)

    def terms(self, quantity: str) -> Sequence[Term]:
        """Give the products whose sum is a quantity, each a list of lengths with their labels.

        Args:
            quantity: ``params`` or ``macs``.
        """
        return [term for term, _ in self._terms[("params", "macs").index(quantity)]]

    def _length(self, size: int, axis: Axis, keep: Mask) -> int:
        if axis is None:
            return size
        gone = axis[axis >= 0]
        return size - int(np.count_nonzero(~keep[self._of[gone]]))
