"""Records of a traced run: every operator once, with the shapes and labels of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from filtersurgeon.graph.labels import Axis, Constraints, Ids, Labels, Step

if TYPE_CHECKING:
    from filtersurgeon.graph.ops import Operator
    from filtersurgeon.networks.code_lines import CodeLine

Key = tuple[str, str, int]
"""Where an operator is called: class of the owner, operator, count of its calls there."""

Term = list[tuple[int, Axis]]
"""Lengths to multiply, each with its labels."""


@dataclass(slots=True)  # frozen ones take three times as long to make
class Seen:
    """A tensor as it passed: its shape and labels.

    Within one trace, a tensor with the same labels and its copies are one object.
    """

    shape: tuple[int, ...]
    labels: Labels

    @property
    def lengths(self) -> Term:
        """The length of every axis with its labels."""
        return list(zip(self.shape, self.labels, strict=True))


@dataclass(slots=True)
class Record:
    """What an operator did.

    Attributes:
        operator: what is known of the operator.
        key: where it was called.
        module: name of the module that called it.
        inputs: every tensor argument.
        results: every tensor returned.
        held: see :class:`~filtersurgeon.graph.labels.Step`.
        named: see :class:`~filtersurgeon.graph.labels.Step`.
        offered: number of readings that its rule offered.
        answers: what its rule decided, by question.
        names: of each tensor argument that is the network's own; None for the others.
        averaged: see :class:`~filtersurgeon.graph.labels.Step`.
        numbers: what must be the same in a pruned network: numbers that it calculates with, and
            how many equal values it reduces.
        rest: the other arguments than tensors, of an equivariant operator; None for others.
    """

    operator: Operator
    key: Key
    module: str
    inputs: list[Seen]
    results: list[Seen]
    held: list[Ids | list[Ids]]
    named: dict[str, Ids]
    offered: int
    answers: dict[str, Any]
    names: list[str | None]
    averaged: list[Ids]
    numbers: tuple[float, ...]
    rest: list[Any] | None


@dataclass(frozen=True, slots=True)
class Read:
    """A number that a network has read from a tensor.

    Attributes:
        value: the number.
        depends: whether it depends on the image.
    """

    value: Any
    depends: bool


@dataclass
class Trace:
    """A run: everything that was tied, pinned and done.

    Attributes:
        constraints: ties and pins.
        slots: name of a tensor -> its labels. Tied tensors have one name.
        records: the operators, in order.
        aliases: further name of a tied tensor -> the name in ``slots``.
        complete: whether the network ran to its end.
        image: what the network read.
        outputs: the tensors that it returned.
        lines: number of an operator -> the line of code that called it, where that was asked for.
        positions: name of a tensor of whole numbers -> the labels of the axis in which they are
            positions.
        reads: the numbers that were read from tensors, in order.
    """

    constraints: Constraints = field(default_factory=Constraints)
    slots: dict[str, Labels] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    image: Seen | None = None
    outputs: list[Seen] = field(default_factory=list)
    lines: dict[int, CodeLine | None] = field(default_factory=dict)
    positions: dict[str, Ids] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)


class Rerun(Protocol):
    """What a run of a pruned network is compared with: the run of the original one."""

    @property
    def prescribed(self) -> Record | None:
        """The record of the next operator in the original run."""

    def foresee(
        self,
        key: Key,
        rest: list[Any],
        inputs: Sequence[tuple[Tensor, Labels]],
        results: Sequence[Tensor],
    ) -> list[Labels] | None:
        """Tell the labels of the results of an equivariant operator, if its rule is not needed."""

    def watch(self, record: Record) -> Sequence[Labels]:
        """Compare an operator whose rule was applied; give the labels of its results."""

    def loose(self, one: Ids, other: Ids) -> None:
        """See :class:`~filtersurgeon.graph.labels.Constraints`."""


def split_tensors(args: Iterable[Any]) -> tuple[list[Tensor], list[Any]]:
    """List the tensors among arguments, and in lists of them, and the other arguments."""
    found: list[Tensor] = []
    rest = []
    for arg in args:
        if isinstance(arg, Tensor):
            found.append(arg)
        elif isinstance(arg, (list, tuple)) and (
            inside := [item for item in arg if isinstance(item, Tensor)]
        ):
            found += inside
        else:
            rest.append(arg)
    return found, rest


def tensors(args: Iterable[Any]) -> list[Tensor]:
    """List the tensors among arguments, and in lists of them."""
    return split_tensors(args)[0]


class Notes:
    """Makes the records of a run.

    Args:
        names: the names of the network's tensors, by their ids.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._noted: dict[int, Seen] = {}

    def record(
        self,
        operator: Operator,
        key: Key,
        step: Step,
        inputs: Sequence[tuple[Tensor, Labels]],
        made: Sequence[Labels],
        rest: list[Any],
    ) -> Record:
        """Note down what an operator did."""
        real = [tensor for tensor, _ in inputs if not tensor.ndim and not tensor.is_meta]
        counted = (float, int) if operator.calculates else float
        return Record(
            operator,
            key,
            step.module,
            [self.note(tensor, labels) for tensor, labels in inputs],
            [self.note(*result) for result in zip(step.results, made, strict=True)],
            step.held,
            step.named,
            step.offered,
            step.answers,
            [self._names.get(id(tensor)) for tensor, _ in inputs],
            step.averaged,
            (*(x for x in rest if isinstance(x, counted)), *map(float, real), *step.repeats),
            rest if operator.equivariant else None,
        )

    def note(self, tensor: Tensor, labels: Labels) -> Seen:
        """Describe a tensor, in one object as long as it has the same labels."""
        noted = self._noted.get(id(tensor))
        if noted is None or noted.labels is not labels:
            noted = self._noted[id(tensor)] = Seen(tuple(tensor.shape), labels)
        return noted

    def note_copy(self, original: Tensor, labels: Labels, copy: Tensor) -> None:
        """Describe a copy by the same object as its original."""
        self._noted[id(copy)] = self.note(original, labels)
