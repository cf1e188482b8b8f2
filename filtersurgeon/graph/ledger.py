"""The ledger of a trace: which labels live or die together, and which never die."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from filtersurgeon.graph.labels import CONSTANT, UNIFORM, Axis, Ids


@dataclass(frozen=True)
class Reason:
    """Why labels are pinned.

    Attributes:
        operator: the operator that they met, such as ``native_layer_norm``, or ``output``.
        module: the module that called it.
        text: the sentence for people.
    """

    operator: str
    module: str
    text: str

    def __str__(self) -> str:
        return f"{self.text} ({self.operator} in {self.module or 'the network itself'})"


@dataclass
class Ledger:
    """Ties and pins, collected while a network runs.

    Attributes:
        size: number of labels given out.
        ties: pairs of vectors whose labels belong together, element by element.
        pins: labels that are never removed, and why.
        loose: called with the labels that are tied where one of the vectors was uniform in part,
            so that its own length does not show whether they belong together.
    """

    size: int = 0
    ties: list[tuple[Ids, Ids]] = field(default_factory=list)
    pins: list[tuple[Ids, Reason]] = field(default_factory=list)
    loose: Callable[[Ids, Ids], None] | None = None
    _channels: dict[int, tuple[Ids, bool]] = field(default_factory=dict)

    def fresh(self, count: int) -> Ids:
        """Give labels that no one has."""
        start, self.size = self.size, self.size + count
        ids = np.arange(start, self.size)
        self._channels[id(ids)] = (ids, True)
        return ids

    def all_channels(self, ids: Ids) -> bool:
        """Tell whether every entry is the label of a channel; a vector is looked at once."""
        found = self._channels.get(id(ids))
        if found is None:
            # The vector is kept, so that its id is never used twice.
            found = self._channels[id(ids)] = (ids, bool(ids.min(initial=0) >= 0))
        return found[1]

    def tie(self, one: Ids, other: Ids, reason: Callable[[], Reason]) -> Ids:
        """Let labels live or die together; what meets a constant is pinned.

        Returns:
            The first vector, with the labels of the other one where it is uniform.
        """
        if one is other:
            return one
        if self.all_channels(one) and self.all_channels(other):
            self.ties.append((one, other))
            return one
        constant = (one == CONSTANT) | (other == CONSTANT)
        self.pin(one[constant], reason())
        self.pin(other[constant], reason())
        both = (one >= 0) & (other >= 0)
        self.ties.append((one[both], other[both]))
        if self.loose is not None:
            self.loose(one[both], other[both])
        return np.where(one == UNIFORM, other, one)

    def tie_rows(self, table: Ids, reason: Reason) -> Ids:
        """Tie the rows of a table to its first one, which is returned."""
        first = table[0]
        if len(table) > 1:
            self.tie(np.tile(first, len(table) - 1), table[1:].ravel(), lambda: reason)
        return first

    def pin(self, axis: Axis, reason: Reason) -> None:
        """Never remove these."""
        if axis is not None:
            ids = axis[axis >= 0]
            if len(ids):
                self.pins.append((ids, reason))
