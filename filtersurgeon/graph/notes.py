"""Records of operators, in which every tensor is described once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from filtersurgeon.graph.labels import Labels
from filtersurgeon.graph.operators import Operator
from filtersurgeon.graph.record import Key, Record, Seen
from filtersurgeon.graph.step import Step


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
            key,
            step.module,
            [self._note(tensor, labels) for tensor, labels in inputs],
            [self._note(*result) for result in zip(step.results, made, strict=True)],
            step.held,
            step.named,
            step.offered,
            step.answers,
            [self._names.get(id(tensor)) for tensor, _ in inputs],
            step.averaged,
            (*(x for x in rest if isinstance(x, counted)), *map(float, real), *step.repeats),
            rest if operator.natural else None,
        )

    def _note(self, tensor: Tensor, labels: Labels) -> Seen:
        """Describe a tensor, in one object as long as it has the same labels."""
        noted = self._noted.get(id(tensor))
        if noted is None or noted.labels is not labels:
            noted = self._noted[id(tensor)] = Seen(tuple(tensor.shape), labels)
        return noted
