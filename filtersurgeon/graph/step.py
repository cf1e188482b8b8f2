"""One operator's turn while a network is traced: what a rule sees and may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from filtersurgeon.graph.labels import CONSTANT, UNIFORM, Axis, Ids, Labels
from filtersurgeon.graph.ledger import Ledger, Reason

if TYPE_CHECKING:
    from torch import Tensor

    from filtersurgeon.graph.record import Record


T = TypeVar("T")


class LabelStore(Protocol):
    """Knows the labels of every tensor seen so far."""

    def labels(self, tensor: Tensor) -> Labels:
        """Give a tensor's labels; those of a parameter are made when first asked for."""

    def own(self, tensor: Tensor) -> Labels | None:
        """Give the labels of a tensor of the network's, of whole numbers too; None for others."""

    def silent(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is zero wherever a removed channel was."""


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
        ledger: takes ties and pins.
        prescribed: the record of this call in the wide network, if this is a narrow one.
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
    ledger: Ledger
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

    def reason(self, text: str) -> Reason:
        """Say in a sentence why this operator pins something."""
        return Reason(self.operator, self.module, text)

    def pin(self, axis: Axis, text: str) -> None:
        """Never remove these labels."""
        if axis is not None:
            self.ledger.pin(axis, self.reason(text))

    def tie(self, one: Axis, other: Axis, text: str = "tied to what cannot shrink") -> Axis:
        """Let two axes of equal length shrink together; where one has no labels, not at all."""
        if one is None or other is None:
            self.pin(one, text)
            self.pin(other, text)
            return None
        return self.ledger.tie(one, other, lambda: self.reason(text))

    def reduce(self, axis: Axis) -> None:
        """Make one value of an axis, where the number of equal values may matter."""
        if axis is None or self.ledger.all_channels(axis):
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

        Where the numbers of a call do not tell how it would look in a narrower network, the rule
        offers its readings, the likeliest first; a trial with a narrower network decides.
        """
        self.offered = len(readings)
        return self.as_before("reading", readings[self.mode] if self.mode < len(readings) else None)

    def as_before(self, question: str, answer: T) -> T:
        """Answer as in the wide network, if this is a narrow one, where numbers tell less."""
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
        wide = [span for span in spans if span[0][axis] != 1]
        if not wide:
            # Only in a narrow network can the one channel of an axis have a label.
            return next((labels[axis] for _, labels in spans if labels[axis] is not None), None)
        for shape, labels in wide:
            found = labels[axis]
            if found is None:
                bare = shape[axis]
            elif met is None:
                met = found
            else:
                met = self.tie(met, found)
        if met is not None and bare:
            return self.tie(met, np.full(bare, CONSTANT), "met values that are not channels")
        return met
