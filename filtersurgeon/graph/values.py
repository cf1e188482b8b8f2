"""Numbers that a network reads from its tensors while it runs, as ``item()`` and ``bool()`` do.

A trace has no data, so the network is run on random images first, and the trace reads what was
read there. That is right only if the network takes the same path for every image: what depends on
the image is exchanged for other values, and the trace must stay as it is. Whether values are
finite counts as known: they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf, isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from filtersurgeon.errors import ran_out_of_memory
from filtersurgeon.graph.labels import Axis
from filtersurgeon.graph.record import Record, Seen, Trace

Run = Callable[[Sequence[Any], int | None], Trace]
Number = bool | int | float | complex

READS = frozenset(
    {
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.equal.default,
        torch.ops.aten.allclose.default,
    }
)
"""Operators that give a number and no tensor."""

_FINITE = frozenset({"isnan", "isinf", "isfinite", "isposinf", "isneginf"})
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})
_MOST_READS = 16
"""Reads that depend on the image, each of which takes several traces."""
_FAR = 1e4
_SPARE = 16


class ValuesNeededError(Exception):
    """A trace has met a number that it does not have."""


class ReadLists(TorchFunctionMode):
    """Lets ``tolist()`` read one number after the other, as every other way to read does."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function."""
        if func is Tensor.tolist:
            return list_numbers(args[0])
        return func(*args, **(kwargs or {}))


def list_numbers(tensor: Tensor) -> Any:
    """Do as ``tolist()`` does by reading one number after the other."""
    return [list_numbers(part) for part in tensor.unbind()] if tensor.ndim else tensor.item()


def asks_whether_finite(operator: str, args: Sequence[Any]) -> bool:
    """Tell whether a call compares values only with infinity, or with themselves."""
    if operator in _FINITE:
        return True
    if operator not in _COMPARISONS or len(args) < 2:
        return False
    one, other = args[:2]
    return other is one or (isinstance(other, float) and other in (inf, -inf))


class _Recorder(TorchDispatchMode):
    """Collects the numbers that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in READS:
            self.found.append(result)
        return result


def find_values(network: nn.Module, image: Tensor, run: Run) -> list[Any]:
    """Find what a network reads, as far as it takes the same path for every image.

    Args:
        network: in evaluation mode.
        image: as for :func:`~filtersurgeon.graph.tracer.trace`.
        run: traces the network with numbers to read, and at most so many operators.

    Returns:
        The numbers in the order of the run, up to the first one that decides about the path.
    """
    recorded = _record_all(network, image)
    if not recorded:
        return []
    values = recorded[0]
    try:
        base = run(values, None)
    except ValuesNeededError:
        return values
    depending = [place for place, read in enumerate(base.reads) if read.depends]
    for place, read in enumerate(base.reads):
        if read.depends:
            if len(depending) > _MOST_READS or not _is_free(base, run, values, place):
                return values[:place]
        elif not all(_is_same_number(other[place : place + 1], read.value) for other in recorded):
            return values[:place]
    return values


def _record_all(network: nn.Module, image: Tensor) -> list[list[Any]]:
    """Run a network on random images of several ranges; give what it read for each of them."""
    if any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers())):
        return []
    draw = torch.Generator().manual_seed(0)
    uniform = torch.rand(image.shape, generator=draw)
    normal = [torch.randn(image.shape, generator=draw) for _ in range(2)]
    found, failed = [], None
    for seed, drawn in enumerate((*normal, uniform, 255 * uniform)):
        recorder = _Recorder()
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]), ReadLists(), recorder:
                torch.manual_seed(seed)
                network(drawn.to(image.dtype))
        except Exception as error:  # whatever the network's own code raises
            if ran_out_of_memory(error):
                raise
            failed = error
        else:
            found.append(recorder.found)
    if not found and failed is not None:
        raise failed
    return found


def _is_same_number(found: Sequence[Any], value: Any) -> bool:
    return len(found) == 1 and (found[0] == value or (found[0] != found[0] and value != value))


def _is_free(base: Trace, run: Run, values: Sequence[Any], place: int) -> bool:
    """Tell whether a network takes the same path whatever a number is.

    A path on which the network raises an exception gives no result that could be wrong.
    """
    value, completed, limit = values[place], 0, 2 * len(base.records) + _SPARE
    for other in _others(value):
        try:
            found = run([*values[:place], other, *values[place + 1 :]], limit)
        except Exception as error:  # whatever the network's own code raises
            if ran_out_of_memory(error) or isinstance(error, ValuesNeededError):
                return False
            continue
        completed += 1
        if not _is_same_path(base, found):
            return False
    return completed > 0 or isinstance(value, bool)


def _others(value: Number) -> Iterator[Number]:
    """Give numbers on both sides of any bound that a number may be compared with."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, 0, value + 1000, -value - 1000)
    elif isinstance(value, float):
        size = abs(value) + 1 if isfinite(value) else 1.0
        yield from (-size, 0.0, size, _FAR * size, -_FAR * size)


def _is_same_path(one: Trace, other: Trace) -> bool:
    """Tell whether two runs do the same with all channels."""
    ties, pins = (
        (one.constraints.ties, other.constraints.ties),
        (one.constraints.pins, other.constraints.pins),
    )
    return (
        one.complete
        and other.complete
        and _are_alike(_labelled(one), _labelled(other), _is_same_step)
        and _are_alike(one.outputs, other.outputs, _are_same)
        and _are_alike(*ties, lambda a, b: all(map(np.array_equal, a, b)))
        and _are_alike(*pins, lambda a, b: np.array_equal(a[0], b[0]))
    )


def _are_alike(
    ones: Sequence[Any], others: Sequence[Any], alike: Callable[[Any, Any], bool]
) -> bool:
    return len(ones) == len(others) and all(map(alike, ones, others))


def _labelled(trace: Trace) -> list[Record]:
    """List the operators that meet channels."""
    return [
        record
        for record in trace.records
        if any(axis is not None for x in (*record.inputs, *record.results) for axis in x.labels)
    ]


def _is_same_step(one: Record, other: Record) -> bool:
    before, after = ((*record.inputs, *record.results) for record in (one, other))
    return one.key[:2] == other.key[:2] and _are_alike(before, after, _are_same)


def _are_same(one: Seen, other: Seen) -> bool:
    return one.shape == other.shape and all(map(_is_same_axis, one.labels, other.labels))


def _is_same_axis(one: Axis, other: Axis) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(one, other))
