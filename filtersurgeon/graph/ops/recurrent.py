"""Recurrent layers and cells, each in one operator.

PyTorch runs a layer step by step. Taken whole, a rule sees its matrices: the layer reads channels
at its input, and each of its units is a row of every gate. A unit whose weights are zero stays
zero in every step if it starts so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.graph.labels import Axis, Ids, Labels, Step
from filtersurgeon.graph.ops import mix_all, operator
from filtersurgeon.graph.record import Record, Term
from filtersurgeon.graph.shapes import Made, ShapeFunction, like

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_ARGUMENTS = 9
"""Of a layer that reads a batch; fewer or others are those of packed sequences."""

Cell = Sequence[Tensor]
"""Weights of the input and of the state, two biases or none, and perhaps a projection."""


def _cells(weights: Sequence[Tensor], count: int) -> list[Cell]:
    each = len(weights) // count
    return [weights[start : start + each] for start in range(0, len(weights), each)]


def _projection(cell: Cell) -> Tensor | None:
    """Give the matrix that makes the output of a cell's units, if there is one."""
    return cell[-1] if len(cell) % 2 else None


def _check_cell(cell: Cell, width: int, gates: int, units: int) -> int:
    """Check the shapes of a cell's tensors; give the number of its outputs."""
    projection = _projection(cell)
    outputs = units if projection is None else projection.shape[0]
    rows = gates * units
    biases = cell[2 : len(cell) - len(cell) % 2]
    fits = tuple(cell[0].shape) == (rows, width) and tuple(cell[1].shape) == (rows, outputs)
    fits &= projection is None or projection.shape[1] == units
    if not fits or any(tuple(bias.shape) != (rows,) for bias in biases):
        raise RuntimeError("the weights of a recurrent layer do not fit")
    return outputs


def _layer(kind: str, function: Any) -> ShapeFunction:
    """Give the shapes of a layer, whose weights PyTorch holds twice."""

    def shapes(tensor: Tensor, *rest: Any) -> Made | None:
        if len(rest) + 1 != _ARGUMENTS or not isinstance(rest[1], list | tuple) or tensor.ndim != 3:
            return None
        hx, weights, _, layers, _, _, bidirectional, batch_first = rest
        states: list[Tensor] = list(hx) if kind == "lstm" else [hx]
        directions = 2 if bidirectional else 1
        width, outputs, units = tensor.shape[-1], 0, states[-1].shape[-1]
        for number, cell in enumerate(_cells(weights, layers * directions)):
            if number and number % directions == 0:
                width = outputs * directions
            outputs = _check_cell(cell, width, _GATES[kind], units)
        batch = tensor.shape[0 if batch_first else 1]
        for state, length in zip(states, (outputs, units), strict=False):
            if tuple(state.shape) != (layers * directions, batch, length):
                raise RuntimeError("the state of a recurrent layer does not fit")
        made = like(tensor, (*tensor.shape[:-1], outputs * directions))
        return function, (tensor, *rest), [made, *(like(state, state.shape) for state in states)]

    return shapes


def _cell(kind: str, function: Any) -> ShapeFunction:
    """Give the shapes of one step of a cell."""

    def shapes(tensor: Tensor, hx: Any, *weights: Tensor | None) -> Made | None:
        states: list[Tensor] = list(hx) if kind == "lstm" else [hx]
        cell = [weight for weight in weights if weight is not None]
        if len(weights) != 4 or len(cell) == 3:
            return None
        _check_cell(cell, tensor.shape[-1], _GATES[kind], states[-1].shape[-1])
        if any(state.shape[:-1] != tensor.shape[:-1] for state in states):
            raise RuntimeError("the state of a recurrent cell does not fit")
        return function, (tensor, hx, *weights), [like(state, state.shape) for state in states]

    return shapes


def _work(record: Record) -> list[Term]:
    """Count one product with every matrix at every position."""
    positions: Term = [(size, None) for size in record.inputs[0].shape[:-1]]
    states = 2 if "lstm" in record.operator.name else 1
    matrices = record.inputs[1 + states :]
    return [[*positions, *seen.lengths] for seen in matrices if len(seen.shape) == 2]


def _tensors(step: Step) -> tuple[list[Tensor], list[Tensor]]:
    """Give the states and the weights of a call."""
    states, weights = step.args[1], step.args[2]
    listed = weights if isinstance(weights, list | tuple) else step.args[2:6]
    return (
        [states] if isinstance(states, Tensor) else list(states),
        [weight for weight in listed if weight is not None],
    )


def _has_silent_units(step: Step, made: Sequence[Labels]) -> bool:
    """Check that a unit without weights starts at zero, so that it stays there."""
    states, weights = _tensors(step)
    bare = all(axis is None for axis in made[0][:-1])
    return bare and all(step.silent(tensor) for tensor in (*states, *weights))


class _Units:
    """Ties the rows of all cells of a layer, which have one number of units.

    Attributes:
        units: labels of the units.
        outputs: labels of what comes out of a cell: its units, or their projection.
    """

    def __init__(self, step: Step, gates: int) -> None:
        self._step, self._gates = step, gates
        self.units: Axis = None
        self.outputs: Axis = None
        self._started = False

    def read(self, below: Axis, cell: Cell) -> Axis:
        """Let a cell read channels; give the labels of its outputs."""
        step = self._step
        ahead, back, *_ = cell
        columns = step.labels(ahead)[1]
        if ahead.shape[1] > 1:
            step.add_up(step.tie(below, columns, "read with values not channels"), ahead)
        vectors = cell[: len(cell) - len(cell) % 2]
        units = self._join([self._one_a_unit(step.labels(tensor)[0]) for tensor in vectors])
        outputs, projection = units, _projection(cell)
        if projection is not None:
            # PyTorch knows a projection by its being narrower than the units.
            step.pin(units, "more units are needed than their projection has outputs")
            outputs, columns = step.labels(projection)
            step.add_up(step.tie(units, columns), projection)
        step.add_up(step.tie(step.labels(back)[1], outputs), back)
        if self._started:
            step.tie(self.units, units)
            step.tie(self.outputs, outputs)
        else:
            self.units, self.outputs, self._started = units, outputs, True
        return outputs

    def start(self, state: Tensor, ends: Axis) -> None:
        """Let the units start from a state, which must be zero where one is removed."""
        step = self._step
        for axis in step.labels(state)[:-2]:
            step.pin(axis, "the layers of a state have fixed places")
        step.tie(ends, step.labels(state)[-1], "starts from a state that is no channel")
        if not step.silent(state):
            step.pin(ends, "starts from a state that is not zero without its channel")

    def _one_a_unit(self, rows: Axis) -> Axis:
        """Tie the rows of all gates of a unit."""
        if rows is None or self._gates == 1:
            return rows
        reason = self._step.reason("the gates of a recurrent layer have as many units each")
        return self._step.constraints.tie_rows(rows.reshape(self._gates, -1), reason)

    def _join(self, vectors: Sequence[Axis]) -> Axis:
        first = vectors[0]
        for other in vectors[1:]:
            first = self._step.tie(first, other)
        return first


def _side_by_side(axes: Sequence[Axis]) -> Axis:
    found: list[Ids] = [axis for axis in axes if axis is not None]
    return np.concatenate(found) if len(found) == len(axes) else None


def _declare(suffix: str, overload: str, shapes: Callable[[str, Any], ShapeFunction]) -> Any:
    """Declare the operators of all kinds of layers, or of cells."""
    names = {kind: f"{kind}{suffix}" for kind in _GATES}
    return operator(
        *names.values(),
        shapes={
            getattr(torch, name): shapes(kind, getattr(getattr(torch.ops.aten, name), overload))
            for kind, name in names.items()
        },
        zero_preserving=_has_silent_units,
        work=_work,
        sums=mix_all,
    )


@_declare("", "input", _layer)
def layer(step: Step) -> list[Labels]:
    """Read channels at every step; all cells have one number of units."""
    tensor, batch_first = step.args[0], step.args[8]
    states, weights = _tensors(step)
    directions = 2 if step.args[7] else 1
    seen = step.labels(tensor)
    at = 0 if batch_first else 1
    step.pin(seen[1 - at], "a recurrent layer runs along it")
    operands: list[tuple[Sequence[int], Labels]] = [(tensor.shape[at : at + 1], seen[at : at + 1])]
    cells = _cells(weights, step.args[4] * directions)
    layers = _Units(step, _GATES[step.operator])
    below = seen[-1]
    for start in range(0, len(cells), directions):
        below = _side_by_side([layers.read(below, cell) for cell in cells[start:][:directions]])
    ends = [layers.outputs, layers.units][: len(states)]
    for state, end in zip(states, ends, strict=True):
        layers.start(state, end)
        operands.append((state.shape[1:2], step.labels(state)[1:2]))
    (batch,) = step.broadcast(operands, 1)
    _name_lengths(step, layers, cells[0])
    first = (batch, None) if batch_first else (None, batch)
    return [(*first, below), *((None, batch, end) for end in ends)]


def _name_lengths(step: Step, layers: _Units, cell: Cell) -> None:
    lengths = {"input_size": step.labels(cell[0])[1], "hidden_size": layers.units}
    if _projection(cell) is not None:
        lengths["proj_size"] = layers.outputs
    step.named.update({name: ids for name, ids in lengths.items() if ids is not None})


@_declare("_cell", "default", _cell)
def cell(step: Step) -> list[Labels]:
    """Read channels and a state, and give the next state."""
    tensor = step.args[0]
    states, weights = _tensors(step)
    units = _Units(step, _GATES[step.operator.removesuffix("_cell")])
    seen = step.labels(tensor)
    units.read(seen[-1], weights)
    operands = [(tensor.shape[:-1], seen[:-1])]
    for state in states:
        units.start(state, units.units)
        operands.append((state.shape[:-1], step.labels(state)[:-1]))
    _name_lengths(step, units, weights)
    stacks = step.broadcast(operands, tensor.ndim - 1)
    return [(*stacks, units.units) for _ in states]
