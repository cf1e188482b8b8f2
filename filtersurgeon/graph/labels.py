"""Labels of channels: a vector per axis of a tensor, how they are tied, and what a rule may do.

``Constraints`` collects which labels are removed together, and which never; ``Step`` is one call
of an operator, as the rules of :mod:`filtersurgeon.graph.ops` see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from filtersurgeon.graph.record import Record
    from filtersurgeon.networks.code_lines import CodeLine


Ids = NDArray[np.int64]
"""One label for every index of an axis; ``CONSTANT`` or ``UNIFORM`` where there is no channel."""

Axis = Ids | None
"""None: nothing can be removed along the axis, and nothing needs to be."""

Labels = tuple[Axis, ...]
"""One entry per axis of a tensor."""

CONSTANT = -1
"""A value that does not go away with a channel: what is joined to it is pinned."""

UNIFORM = -2
"""One value repeated, such as padding: there may be more or fewer of it."""

HELD = "held in Python"
INPUT = "reads the network's input"
MET = "met values that are not channels"
TIED = "tied to what cannot shrink"


def blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Pair the axes that a reshape maps onto each other, in the smallest possible groups.

    Axes of size one are left out, as they carry no labels.

    Args:
        old: a shape.
        new: another shape with as many elements.

    Yields:
        Axes of ``old`` and the axes of ``new`` that hold the same elements.
    """
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    i = j = 0
    while i < len(left) and j < len(right):
        start_i, start_j = i, j
        here, there = old[left[i]], new[right[j]]
        i, j = i + 1, j + 1
        while here != there:
            if here < there:
                here *= old[left[i]]
                i += 1
            else:
                there *= new[right[j]]
                j += 1
        yield left[start_i:i], right[start_j:j]


def spread(axis: Ids, position: int, shape: Sequence[int]) -> Ids:
    """Give the labels of the elements of a flattened tensor whose axis ``position`` has labels.

    Args:
        axis: the labels along that axis.
        position: which axis.
        shape: of the tensor.

    Returns:
        A vector with one label per element, in row-major order.
    """
    before, after = prod(shape[:position]), prod(shape[position + 1 :])
    return np.tile(np.repeat(axis, after), before)


def gather(flat: Ids, shape: Sequence[int], axis: int) -> Ids:
    """Give the labels of a flattened tensor as a table with one column per index of an axis.

    Args:
        flat: one label per element, row-major.
        shape: of the tensor.
        axis: the one whose indices are to be the columns.

    Returns:
        Shape (elements / shape[axis], shape[axis]).
    """
    return np.moveaxis(flat.reshape(shape), axis, -1).reshape(-1, shape[axis])


@dataclass(frozen=True)
class Reason:
    """Why labels are pinned.

    Attributes:
        operator: the operator that they met, such as ``native_layer_norm``, or ``output``.
        module: the module that called it.
        text: the sentence for people.
        line: of the network's code, where it happened; None where that is not known.
        number: how many operators were recorded before; -1 where that is not known.
    """

    operator: str
    module: str
    text: str
    line: CodeLine | None = None
    number: int = field(default=-1, compare=False)


@dataclass
class Constraints:
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


T = TypeVar("T")


class LabelStore(Protocol):
    """Knows the labels of every tensor seen so far."""

    def labels(self, tensor: Tensor) -> Labels:
        """Give a tensor's labels; those of a parameter are made when first asked for."""

    def own(self, tensor: Tensor) -> Labels | None:
        """Give the labels of a tensor of the network's, of whole numbers too; None for others."""

    def silent(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is zero wherever a removed channel was."""

    def holds(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is true, or not zero, wherever a removed channel was."""

    def point(self, tensor: Tensor, axis: Ids) -> bool:
        """Note that the numbers of a tensor of the network's are positions in an axis.

        Returns:
            Whether they can be renumbered: they are used for nothing else.
        """

    def pin_if_read(self, tensor: Tensor, axis: Axis, reason: Reason) -> None:
        """Pin labels as soon as anything reads a tensor, or the network returns it."""

    def place(self) -> tuple[CodeLine | None, int]:
        """Give the line of the network's code that is running, and how many records there are."""


@dataclass
class Step:
    """An operator's call.

    Attributes:
        operator: its name without overload, such as ``convolution``.
        args: positional arguments.
        kwargs: keyword arguments.
        results: the tensors that it returned.
        module: name of the module that called it.
        module_class: that module's class name.
        mode: how many of the readings that a rule offers have failed before.
        store: gives labels.
        constraints: takes ties and pins.
        prescribed: the record of this call in the original network, if this is a pruned one.
        offered: number of readings that the rule has offered.
        answers: what was decided, by question.
        held: lengths that the network may hold in Python, as vectors of labels or lists of them.
        named: lengths that modules of torch hold, by the attribute.
        averaged: vectors of labels over which a compensated average was taken.
        repeats: how many equal values were reduced to one, by axis.
    """

    operator: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: Sequence[Tensor]
    module: str
    module_class: str
    mode: int
    store: LabelStore
    constraints: Constraints
    prescribed: Record | None = None
    offered: int = 0
    answers: dict[str, Any] = field(default_factory=dict)
    held: list[Ids | list[Ids]] = field(default_factory=list)
    named: dict[str, Ids] = field(default_factory=dict)
    averaged: list[Ids] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """Give an argument, wherever the caller put it."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default)

    def labels(self, tensor: Tensor) -> Labels:
        """Give a tensor's labels."""
        return self.store.labels(tensor)

    def own(self, tensor: Tensor) -> Labels | None:
        """Give the labels of a tensor of the network's, of whole numbers too; None for others."""
        return self.store.own(tensor)

    def owns(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is one of the network's."""
        return self.store.own(tensor) is not None

    def silent(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is zero wherever a removed channel was."""
        return self.store.silent(tensor)

    def holds(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is true, or not zero, wherever a removed channel was."""
        return self.store.holds(tensor)

    def pick(self, axis: Ids, index: Tensor) -> Axis:
        """Pick channels by a list of positions, or a mask, that the network keeps.

        Every entry of the list lives and dies with the channel that it picks.

        Args:
            axis: the labels that are picked from.
            index: the list.

        Returns:
            None if the list cannot be changed along.
        """
        own = self.own(index) if index.ndim == 1 and not index.is_meta else None
        if own is None or own[0] is None:
            return None
        numbers = index.detach().cpu().numpy()
        if self.constraints.all_channels(axis):
            if numbers.dtype == np.bool_:
                self.tie(own[0], axis)
                return axis[numbers]
            if numbers.dtype in (np.int32, np.int64) and self.store.point(index, axis):
                self.tie(own[0], axis[numbers])
                return axis[numbers]
        self.pin(own[0], "used as indices")
        return None

    def reason(self, text: str) -> Reason:
        """Say in a sentence why this operator pins something."""
        return Reason(self.operator, self.module, text, *self.store.place())

    def pin(self, axis: Axis, text: str) -> None:
        """Never remove these labels."""
        if axis is not None:
            self.constraints.pin(axis, self.reason(text))

    def pin_if_read(self, result: Tensor, axis: Axis, text: str) -> None:
        """Never remove these labels, if anything reads one of the results."""
        if axis is not None:
            self.store.pin_if_read(result, axis, self.reason(text))

    def tie(self, one: Axis, other: Axis, text: str = TIED) -> Axis:
        """Let two axes of equal length shrink together; where one has no labels, not at all."""
        if one is None or other is None:
            self.pin(one, text)
            self.pin(other, text)
            return None
        return self.constraints.tie(one, other, lambda: self.reason(text))

    def reduce(self, axis: Axis) -> None:
        """Make one value of an axis, where the number of equal values may matter."""
        if axis is None or self.constraints.all_channels(axis):
            return
        if count := int((axis == UNIFORM).sum()):
            self.repeats.append(count)

    def add_up(self, axis: Axis, *factors: Tensor) -> None:
        """Sum along an axis, of which only silent channels may go.

        Args:
            axis: its labels.
            factors: what is multiplied before; one silent factor is enough.
        """
        self.reduce(axis)
        if axis is not None and not any(self.silent(factor) for factor in factors):
            self.pin(axis, "summed over, and not zero without their channel")

    def choose(self, *readings: str) -> str | None:
        """Give the first reading that has not failed, or None once all have.

        Where the numbers of a call do not tell how it would look in a pruned network, the rule
        offers its readings, the likeliest first; a trial with a pruned network decides.
        """
        self.offered = len(readings)
        return self.as_before("reading", readings[self.mode] if self.mode < len(readings) else None)

    def as_before(self, question: str, answer: T) -> T:
        """Answer as in the original network, if this is a pruned one, where numbers tell less."""
        if self.prescribed is not None:
            answer = self.prescribed.answers.get(question, answer)
        self.answers[question] = answer
        return answer

    def broadcast(self, operands: Sequence[tuple[Sequence[int], Labels]], ndim: int) -> Labels:
        """Tie the axes that meet when tensors are combined element by element.

        Args:
            operands: shape and labels of each.
            ndim: number of axes of the result.
        """
        return tuple(self._meet(operands, axis - ndim) for axis in range(ndim))

    def _meet(self, operands: Sequence[tuple[Sequence[int], Labels]], axis: int) -> Axis:
        met: Axis = None
        bare = 0
        spans = [(shape, labels) for shape, labels in operands if len(shape) >= -axis]
        longer = [span for span in spans if span[0][axis] != 1]
        if not longer:
            # Only in a pruned network can the one channel of an axis have a label.
            return next((labels[axis] for _, labels in spans if labels[axis] is not None), None)
        for shape, labels in longer:
            found = labels[axis]
            if found is None:
                bare = shape[axis]
            elif met is None:
                met = found
            else:
                met = self.tie(met, found)
        if met is not None and bare:
            return self.tie(met, np.full(bare, CONSTANT), MET)
        return met
