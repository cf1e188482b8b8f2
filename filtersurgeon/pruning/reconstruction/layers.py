"""Which bundles of channels can be cut with their reading layers refitted, and by what steps.

A bundle can be cut this way if every layer that reads it is a convolution or linear layer that the
network calls once. Layers that carry channels through one by one, as depthwise convolutions do, go
with the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.graph.emptied import can_be_constant
from filtersurgeon.graph.groups import Bundle
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.program import Program, Ref
from filtersurgeon.graph.weights import WeightLayer

Ints = NDArray[np.int64]

_PASSING = frozenset({"view", "_unsafe_view", "reshape", "alias", "clone", "squeeze", "unsqueeze",
                      "permute", "transpose", "detach", "_to_copy"})  # fmt: skip
_MATRIX = ("addmm", "mm")

STREAM = "a residual stream"
"""Why a bundle is kept whole to which several layers add."""


@dataclass(frozen=True)
class Skip:
    """What is added to the output of a layer behind its normalisation, as along a residual stream.

    Attributes:
        value: number of the step that computes it.
        scales: pairs of tensors (weight, variance) and epsilon of batch normalisations in between,
            or of a plain factor (weight, None).
    """

    value: int
    scales: tuple[tuple[str | None, str | None, float], ...]


@dataclass(frozen=True)
class ReadingLayer:
    """A layer that reads channels which may go.

    Attributes:
        layer: the layer.
        step: number of the step that calls it.
        source: number of the step whose value it reads.
        pooled: number of the step whose mean over space that is; None if it is no mean.
        geometry: stride, padding, dilation of a convolution; None for a linear layer.
        members: ``(in,)``, the group of each input; -1 for one that is no channel.
        skip: what is added to what it makes.
        batch: images in the batch that the run takes.
    """

    layer: WeightLayer
    step: int
    source: int
    pooled: int | None
    geometry: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None
    members: Ints
    skip: Skip | None
    batch: int

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name


@dataclass(frozen=True)
class Candidate:
    """A bundle that can be cut.

    Attributes:
        name: of the layer that makes its channels, the first one.
        bundle: the groups and axes.
        readers: names of the layers that read it.
        stream: whether several layers add to its channels.
        branch: whether all of it may go: one convolution reads it, and nothing else, whose output
            is added to others.
    """

    name: str
    bundle: Bundle
    readers: tuple[str, ...]
    stream: bool
    branch: bool = False

    @property
    def width(self) -> int:
        """How many groups it has."""
        return len(self.bundle.groups)


@dataclass(frozen=True)
class Survey:
    """What can be cut and refitted.

    Attributes:
        candidates: the bundles, in the order of their first readers.
        readers: name of a layer -> the layer, in the order of the run; those that read a stream
            that is kept whole, too.
        kept: name of a bundle -> why it is kept whole.
    """

    candidates: list[Candidate]
    readers: dict[str, ReadingLayer]
    kept: dict[str, str] = field(default_factory=dict)


def survey(opened: OpenedModel, program: Program, *, streams: bool = False) -> Survey:
    """Find the bundles that can be cut, and arrange the program so that they can be refitted.

    Args:
        opened: the network.
        program: its run; its order is changed, so that what is added to a layer's output comes
            before the layer.
        streams: take bundles that several layers add to, too.
    """
    called = _calls(opened, program)
    members = {layer.name: _members(opened, layer) for layer in opened.layers}
    added = _added(opened)
    candidates, kept = [], dict[str, str]()
    wanted: dict[str, ReadingLayer] = {}
    streaming: list[WeightLayer] = []
    for bundle in opened.graph.groups.bundles:
        if bundle.pinned:
            continue
        inside = np.zeros(len(opened.graph.groups), bool)
        inside[bundle.groups] = True
        makers, reading = _sides(opened, members, inside)
        if not makers:
            continue
        name = makers[0]
        stream = len(makers) > 1 and bool(inside[list(added)].any())
        problem = _problem(reading, called, members, inside)
        if problem is None and stream and not streams:
            problem = STREAM
        if problem is not None:
            kept[name] = problem
            streaming += reading if problem == STREAM else []
            continue
        for layer in reading:
            if layer.name not in wanted:
                wanted[layer.name] = _reading(program, layer, called[layer.tensor][0], members)
        names = tuple(layer.name for layer in reading)
        candidates.append(Candidate(name, bundle, names, stream))
    # What cuts need comes first, where two layers cannot both have what is added behind them.
    for layer in streaming:
        if candidates and layer.name not in wanted:
            wanted[layer.name] = _reading(program, layer, called[layer.tensor][0], members)
    wanted = _arrange(program, wanted)
    candidates = [replace(c, branch=_is_branch(opened, c, wanted)) for c in candidates]
    readers = dict(sorted(wanted.items(), key=lambda item: program.place[item[1].step]))
    at = {name: number for number, name in enumerate(readers)}
    candidates.sort(key=lambda c: min(at[name] for name in c.readers))
    return Survey(candidates, readers, kept)


def _is_branch(opened: OpenedModel, candidate: Candidate, readers: dict[str, ReadingLayer]) -> bool:
    first = readers[candidate.readers[0]]
    return (
        not candidate.stream
        and len(candidate.readers) == 1
        and first.skip is not None
        and bool(np.isin(first.members, candidate.bundle.groups).all())
        and can_be_constant(opened, first.layer)
    )


def _arrange(program: Program, readers: dict[str, ReadingLayer]) -> dict[str, ReadingLayer]:
    """Have what is added to a layer's output, and what its mean is of, at hand before the layer.

    Two layers whose outputs are added cannot both wait for the other; the first one does.
    """
    pooled = [(x.step, x.pooled) for x in readers.values() if x.pooled is not None]
    skips = [(x.step, x.skip.value) for x in readers.values() if x.skip is not None]
    had = program.arrange([*pooled, *skips])
    return {
        name: reader
        if reader.skip is None or (reader.step, reader.skip.value) in had
        else replace(reader, skip=None)
        for name, reader in readers.items()
    }


def _calls(opened: OpenedModel, program: Program) -> dict[str, list[int]]:
    """Give for each weight the steps that are a convolution or a product with it."""
    aliases, found = opened.graph.trace.aliases, dict[str, list[int]]()
    for number in program.order:
        step = program.steps[number]
        if step.name == "convolution" or step.name in _MATRIX:
            name = program.tensor_of(step.args[-1 if step.name in _MATRIX else 1])
            if name is not None:
                found.setdefault(aliases.get(name, name), []).append(number)
    return found


def _members(opened: OpenedModel, layer: WeightLayer) -> tuple[Ints | None, Ints | None]:
    """Give the groups of a layer's outputs and inputs, -1 for what is no channel."""
    of = opened.graph.groups.of

    def groups(axis: Ints | None) -> Ints | None:
        return None if axis is None else np.where(axis >= 0, of[axis], -1)

    return groups(layer.out_channels), groups(layer.in_channels)


def _sides(
    opened: OpenedModel,
    members: dict[str, tuple[Ints | None, Ints | None]],
    inside: NDArray[np.bool_],
) -> tuple[list[str], list[WeightLayer]]:
    """Give the layers that make channels of a bundle from others, and those that read it."""
    makers, reading = [], []
    for layer in opened.layers:
        out, into = (_has(side, inside) for side in members[layer.name])
        if out and into and layer.groups > 1:
            continue  # it carries channels
        if out:
            makers.append(layer.name)
        if into:
            reading.append(layer)
    return makers, reading


def _has(members: Ints | None, inside: NDArray[np.bool_]) -> bool:
    return members is not None and bool(inside[members[members >= 0]].any())


def _problem(
    reading: Sequence[WeightLayer],
    called: dict[str, list[int]],
    members: dict[str, tuple[Ints | None, Ints | None]],
    inside: NDArray[np.bool_],
) -> str | None:
    """Say why a bundle cannot be refitted, if so."""
    if not reading:
        return "no layer reads it that could be refitted"
    for layer in reading:
        if len(called.get(layer.tensor, ())) != 1:
            times = len(called.get(layer.tensor, ()))
            return f"{layer.name} is called {times} times" if times else f"{layer.name} is not seen"
        into = members[layer.name][1]
        assert into is not None
        chosen = into[into >= 0]
        counts = np.bincount(chosen[inside[chosen]])
        if len(set(counts[counts > 0].tolist())) != 1:
            return f"{layer.name} reads its channels unequally often"
    return None


def _reading(
    program: Program,
    layer: WeightLayer,
    number: int,
    members: dict[str, tuple[Ints | None, Ints | None]],
) -> ReadingLayer:
    step = program.steps[number]
    into = members[layer.name][1]
    assert into is not None
    if step.name == "convolution":
        source, geometry = step.args[0].step, tuple(tuple(x) for x in step.args[3:6])
    else:
        source, geometry = step.args[-2].step, None
    pooled = _pooled(program, source)
    skip = _skip(program, number, linear=geometry is None)
    return ReadingLayer(layer, number, source, pooled, geometry, into, skip, program.batch)  # type: ignore[arg-type]


def _pooled(program: Program, source: int) -> int | None:
    """Give the step whose mean over space a layer reads, if it reads one."""
    number = source
    while number and program.steps[number].name in _PASSING:
        number = program.steps[number].uses[0]
    step = program.steps[number]
    if not number or step.name != "mean" or not isinstance(step.args[0], Ref):
        return None
    axes = sorted(axis % 4 for axis in step.args[1])
    return step.args[0].step if axes == [2, 3] else None


def _skip(program: Program, number: int, *, linear: bool) -> Skip | None:
    """Find what is added to a layer's output, all steps in between being linear by channel."""
    scales: list[tuple[str | None, str | None, float]] = []
    if linear:
        return None
    while True:
        users = program.users.get(number, [])
        if len(users) != 1:
            return None
        user = users[0]
        step = program.steps[user]
        name = step.name
        if "batch_norm" in name:
            weight, variance = (program.tensor_of(step.args[n]) for n in (1, 4))
            if variance is None:
                return None
            scales.append((weight, variance, float(step.args[-1])))
            gets = [u for u in program.users.get(user, []) if program.steps[u].args[1] == 0]
            if len(gets) != 1:
                return None
            number = gets[0]
        elif name in ("alias", "clone", "detach"):
            number = user
        elif name == "add" and len(step.uses) == 2 and not step.kwargs:
            other = step.uses[1] if step.uses[0] == number else step.uses[0]
            if number in program.ancestors([other]):
                return None
            return Skip(other, tuple(scales))
        else:
            return None


def _added(opened: OpenedModel) -> set[int]:
    """Give the groups of channels that are sums of two values of the run."""
    of, found = opened.graph.groups.of, set[int]()
    for record in opened.graph.trace.records:
        if record.key[1].strip("_") not in ("add", "sub") or len(record.inputs) != 2:
            continue
        if any(name is not None for name in record.names):
            continue
        groups = []
        for seen in record.inputs:
            ids = [axis[axis >= 0] for axis in seen.labels if axis is not None]
            groups.append(set(np.unique(of[np.concatenate(ids)]).tolist()) if ids else set())
        found |= groups[0] & groups[1]
    return found
