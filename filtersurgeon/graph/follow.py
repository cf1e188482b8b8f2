"""Which layers read the output of a layer, and through what, from the records of a traced run.

- ``DataFlow``: which operator reads what.
- ``normalisations``: the batch normalisation that reads each convolution.
- ``find_convolutions``: which convolutions run, read the image, or are normalised.
- ``find_followers``: the layer that can take up a factor per output channel. Anything that such a
  factor does not pass ends the search with its name: the answer is exact, or there is none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.errors import LayerError

if TYPE_CHECKING:
    from torch import nn

    from filtersurgeon.graph.labels import Axis
    from filtersurgeon.graph.record import Record, Seen, Trace

_CONVOLUTION = "convolution"
_LEAVE = "leave it out with `layers` '!{0}', or leave out `fold`"
_SIGNED = frozenset(["relu", "leaky_relu", "prelu", "_prelu_kernel", "max_pool2d",
                     "max_pool2d_with_indices", "adaptive_max_pool2d"])  # fmt: skip
_POOLS = frozenset(["avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "max_pool2d",
                    "max_pool2d_with_indices", "adaptive_max_pool2d"])  # fmt: skip
_PASSED = _SIGNED | _POOLS | {"mean", "permute", "transpose", "view", "squeeze", "unsqueeze"}
"""Operators that commute with a factor per channel, some only if it is positive."""


@dataclass(frozen=True)
class Follower:
    """The layer that takes up the scale of another's output channels.

    Attributes:
        name: its module.
        kind: ``normalisation`` (batch normalisation), or ``weight`` (convolution or linear).
        positive: the way there goes through a ReLU or the like, which only a factor above zero
            passes.
        groups: of a convolution.
    """

    name: str
    kind: str
    positive: bool
    groups: int


class DataFlow:
    """Which operator reads what another one made, in a traced run.

    Args:
        trace: the run.

    Attributes:
        makers: for every record, and each of its inputs, the place of the record that made it or
            last wrote into it; None for the image and for the network's own tensors.
        readers: for every record the places of those that read its results, ascending; the number
            of records stands for the network's output.
    """

    def __init__(self, trace: Trace) -> None:
        self.makers: list[list[int | None]] = []
        self.readers: list[list[int]] = [[] for _ in trace.records]
        # Within a trace, one tensor is one object; a tensor that is written into is read anew.
        last: dict[int, int] = {}
        for place, record in enumerate(trace.records):
            self.makers.append([last.get(id(seen)) for seen in record.inputs])
            self._note(place, self.makers[-1])
            last.update((id(seen), place) for seen in record.results)
        self._note(len(trace.records), [last.get(id(seen)) for seen in trace.outputs])

    def _note(self, reader: int, makers: Iterable[int | None]) -> None:
        for maker in {m for m in makers if m is not None}:
            self.readers[maker].append(reader)


def normalisations(
    network: nn.Module, trace: Trace, *, alone: bool = False
) -> dict[str, nn.Module]:
    """Find the batch normalisation that reads each convolution's output.

    Args:
        network: the network.
        trace: a run of it.
        alone: leave out those where something else reads or returns that output or uses the
            convolution's weight, or where one of the two runs more than once.

    Returns:
        Module name of a convolution -> the normalisation, for those that have one.
    """
    from torch import nn

    modules, flow = dict(network.named_modules()), DataFlow(trace)
    runs = Counter((record.module, record.key[1]) for record in trace.records)
    uses = Counter(name for record in trace.records for name in set(record.names))
    found: dict[str, nn.Module] = {}
    for place, record in enumerate(trace.records):
        norm = modules.get(record.module)
        if not isinstance(norm, nn.BatchNorm2d) or "batch_norm" not in record.key[1]:
            continue
        maker = flow.makers[place][0]
        if maker is None or (made := trace.records[maker]).key[1] != _CONVOLUTION:
            continue
        if not isinstance(modules.get(made.module), nn.Conv2d):
            continue
        once = all(runs[x.module, x.key[1]] == 1 for x in (made, record))
        if not alone or (once and flow.readers[maker] == [place] and uses[made.names[1]] == 1):
            found[made.module] = norm
    return found


@dataclass
class Convolutions:
    """The convolutions of a network, in one run.

    Attributes:
        called: module names in the order of their first call.
        first: those that read the image; where none does, the first one called.
        normalised: those whose output a normalisation of any kind reads directly.
    """

    called: list[str] = field(default_factory=list)
    first: set[str] = field(default_factory=set)
    normalised: set[str] = field(default_factory=set)


def find_convolutions(network: nn.Module, trace: Trace) -> Convolutions:
    """Find which convolutions run as modules, which read the image, and which are normalised.

    Args:
        network: the network.
        trace: a run of it.
    """
    from torch import nn

    modules, flow = dict(network.named_modules()), DataFlow(trace)
    convolutions = {name for name, m in modules.items() if isinstance(m, nn.Conv2d)}
    norms = {name for name, m in modules.items() if "norm" in type(m).__name__.lower()}
    around = {x.module: set(_around(x.module)) for x in trace.records}
    found = Convolutions()
    for record, makers in zip(trace.records, flow.makers, strict=True):
        inside = around[record.module]
        running = inside & convolutions
        found.called += sorted(running - set(found.called))
        for seen, maker in zip(record.inputs, makers, strict=True):
            if maker is None:
                found.first |= running if seen is trace.image else set()
                continue
            outside = around[trace.records[maker].module]
            if (inside - outside) & norms:
                found.normalised |= (outside - inside) & convolutions
    found.first |= set() if found.first else set(found.called[:1])
    return found


def _around(module: str) -> Iterator[str]:
    """Name a module and those that it is a part of."""
    while module:
        yield module
        module = module.rpartition(".")[0]
    yield ""


def find_followers(network: nn.Module, trace: Trace, layers: Iterable[str]) -> dict[str, Follower]:
    """Find for each convolution the layer that can take up a factor per output channel.

    The labels of its channels are followed through operators that commute with such a factor.

    Args:
        network: in evaluation mode.
        trace: a run of it.
        layers: module names of convolutions.

    Returns:
        Layer -> follower.

    Raises:
        LayerError: between a layer and the next weights there is something that a factor per
            channel does not pass, such as a layer normalisation or a second reader.
    """
    search = _Search(dict(network.named_modules()), trace, DataFlow(trace))
    return {name: search.follow(name) for name in layers}


@dataclass(frozen=True)
class _Search:
    modules: dict[str, nn.Module]
    trace: Trace
    flow: DataFlow

    def follow(self, layer: str) -> Follower:
        """Find what takes up the scale of a convolution's output channels."""
        records = self.trace.records
        places = [i for i, r in enumerate(records) if (r.module, r.key[1]) == (layer, _CONVOLUTION)]
        if len(places) != 1:
            raise LayerError(f"layer {layer} is called {len(places)} times; {_LEAVE.format(layer)}")
        place, positive = places[0], False
        channels = records[place].results[0].labels[1]
        while True:
            readers, seen = self.flow.readers[place], records[place].results[0]
            if len(readers) != 1:
                raise LayerError(
                    f"layer {layer}: {len(readers)} operators read {self._describe(place)}, and "
                    f"its scale can move into one only; {_LEAVE.format(layer)}"
                )
            place = readers[0]
            axis = _axis_of(channels, seen)
            reader = None if place == len(records) or axis is None else records[place]
            if reader is not None and axis is not None and _reads_once(reader, seen):
                found = self._taker(reader, seen, axis, positive)
                if found is not None:
                    return found
                if self._passes(reader, seen, axis):
                    positive |= reader.key[1] in _SIGNED
                    continue
            raise LayerError(
                f"layer {layer}: a factor per channel does not pass {self._describe(place)}; "
                f"{_LEAVE.format(layer)}"
            )

    def _taker(self, reader: Record, seen: Seen, axis: int, positive: bool) -> Follower | None:
        """Give the module as a follower if its own weights can take up the factor."""
        from torch import nn
        from torch.nn.modules.batchnorm import _BatchNorm

        name, module, operator = reader.module, self.modules.get(reader.module), reader.key[1]
        runs = sum((r.module, r.key[1]) == (name, operator) for r in self.trace.records)
        if runs != 1:
            return None
        if isinstance(module, _BatchNorm) and axis == 1 and "batch_norm" in operator:
            usable = module.affine and module.track_running_stats
            return Follower(name, "normalisation", positive, 1) if usable else None
        if isinstance(module, nn.Conv2d) and axis == 1 and operator == _CONVOLUTION:
            return Follower(name, "weight", positive, module.groups) if _plain(module) else None
        if isinstance(module, nn.Linear) and axis == len(seen.shape) - 1:
            return Follower(name, "weight", positive, 1)
        return None

    def _passes(self, reader: Record, seen: Seen, axis: int) -> bool:
        operator = reader.key[1]
        if operator in _POOLS:
            return axis == 1 and len(seen.shape) == 4
        if "prelu" in operator:
            return axis == 1 or prod(reader.inputs[1].shape) == 1
        if operator == "constant_pad_nd":  # zeros, around what a convolution reads
            return type(self.modules.get(reader.module)).__name__ == "Conv2dSame"
        return operator in _PASSED

    def _describe(self, place: int) -> str:
        if place == len(self.trace.records):
            return "the network's output"
        record = self.trace.records[place]
        module = self.modules.get(record.module)
        if record.module and module is not None and not any(module.children()):
            return f"{record.module} ({type(module).__name__})"
        return f"the operator {record.key[1]}"


def _axis_of(channels: Axis, seen: Seen) -> int | None:
    """Find the axis of a tensor that holds some channels, each once or at several positions."""
    if channels is None:
        return None
    for axis, labels in enumerate(seen.labels):
        if labels is not None and len(labels) % len(channels) == 0:
            spread = np.repeat(channels, len(labels) // len(channels))
            if np.array_equal(labels, spread):
                return axis
    return None


def _reads_once(reader: Record, seen: Seen) -> bool:
    return sum(each is seen for each in reader.inputs) == 1


def _plain(module: nn.Conv2d) -> bool:
    """Tell whether a convolution uses its weight as it is stored, padded with zeros if at all."""
    from torch import nn

    forward = type(module).forward is nn.Conv2d.forward or type(module).__name__ == "Conv2dSame"
    return forward and module.padding_mode == "zeros"
