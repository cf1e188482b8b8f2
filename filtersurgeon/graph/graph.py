"""The channel graph of a network: which channels can be removed together, and which never."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.errors import FilterSurgeonError, GraphError, ran_out_of_memory
from filtersurgeon.graph.groups import Groups, Mask, join
from filtersurgeon.graph.reasons import Causes
from filtersurgeon.graph.record import Key, Trace
from filtersurgeon.graph.repair import Knowledge
from filtersurgeon.graph.tracer import trace
from filtersurgeon.graph.trial import Settings, first_mismatch
from filtersurgeon.graph.values import ValuesNeededError, find_values
from filtersurgeon.networks.code_lines import CodeLine
from filtersurgeon.networks.failing import describe_failure
from filtersurgeon.networks.restoring import restore_attributes

_TRIALS = 200
_AHEAD = 2
_DOUBTS = 4
"""Calls for which another reading is tried, though the first one has not failed."""


@dataclass(frozen=True)
class ChannelGraph:
    """A network's channels.

    Attributes:
        network: the network.
        image: the input that it was traced with, without data.
        trace: the run.
        groups: the channels, joined.
        knowledge: what the network holds in Python.
    """

    network: nn.Module
    image: Tensor
    trace: Trace
    groups: Groups
    knowledge: Knowledge

    @cached_property
    def causes(self) -> Causes:
        """What keeps channels."""
        return Causes(self.trace, self.groups, self.find_lines)

    def find_lines(self, numbers: Collection[int]) -> dict[int, CodeLine | None]:
        """Run the network once more, for the lines of code of some operators, by their numbers."""
        modes, limit = self.knowledge.modes, max(numbers) + 1
        return run_trace(self.network, self.image, modes=modes, limit=limit, lined=numbers).lines

    def settings(self, keep: Mask) -> Settings:
        """Give what modules are to hold when some groups are kept."""
        return self.knowledge.settings(self.network, self.trace, keep[self.groups.of])

    def first_mismatch(self, keep: Mask) -> int | None:
        """Find where a cut goes wrong, if it does.

        Args:
            keep: group -> whether it is kept.
        """
        settings = self.settings(keep)
        modes = self.knowledge.modes
        return first_mismatch(
            self.network, self.image, self.trace, self.groups, keep, settings, modes
        )


def channel_graph(network: nn.Module, image: Tensor) -> ChannelGraph:
    """Follow the channels of a network, and try which of them can go.

    Args:
        network: in evaluation mode.
        image: a batch of one on the meta device.

    Raises:
        GraphError: the network does not run on tensors without data, or a part of it does not
            take fewer channels whatever is pinned.
        OutputError: it returns no tensors, or hides them in an unknown object.
    """
    graph = _settle(network, image, Knowledge())
    for key in _list_doubtful(graph)[:_DOUBTS]:
        other = deepcopy(graph.knowledge)
        other.modes[key] = 1
        with suppress(GraphError):
            found = _settle(network, image, other)
            if _count_free(found) > _count_free(graph):
                graph = found
    return graph


def _list_doubtful(graph: ChannelGraph) -> list[Key]:
    """List the calls that deal channels out, whose likeliest reading pins all these channels."""
    groups = graph.groups
    found = []
    for record in graph.trace.records:
        if record.answers.get("reading") == "last" and record.key not in graph.knowledge.modes:
            axes = [axis for axis in record.inputs[0].labels if axis is not None]
            if all(groups.pinned[groups.members(axis)].all() for axis in axes):
                found.append(record.key)
    return list(dict.fromkeys(found))


def _count_free(graph: ChannelGraph) -> int:
    return int((~graph.groups.pinned[graph.groups.of]).sum())


def _settle(network: nn.Module, image: Tensor, knowledge: Knowledge) -> ChannelGraph:
    """Follow the channels, try cuts, and learn from those that fail, until none does."""
    limit = None
    for _ in range(_TRIALS):
        graph = _run_trace(network, image, knowledge, limit)
        for keep in _trial_cuts(graph):
            failed = graph.first_mismatch(keep)
            if failed is not None:
                break
        else:
            if graph.trace.complete:
                return graph
            limit = None
            continue
        if not graph.trace.complete and failed == len(graph.trace.records) - 1:
            # Perhaps only because what comes next has not been seen.
            limit = _AHEAD * len(graph.trace.records)
            continue
        if not knowledge.learn(
            network, graph.trace, failed, graph.groups, keep, graph.first_mismatch
        ):
            record = graph.trace.records[failed]
            where = record.module or "the network"
            raise GraphError(f"cannot follow channels through {record.key[1]} in {where}")
        # What comes long after need not be traced before this operator is understood.
        limit = _AHEAD * failed + _AHEAD
    raise GraphError("cannot follow the channels of this network: too much is held in Python")


def _run_trace(
    network: nn.Module, image: Tensor, knowledge: Knowledge, limit: int | None
) -> ChannelGraph:
    run = run_trace(network, image, modes=knowledge.modes, limit=limit, values=knowledge.values)
    if run.reads and run.complete:
        knowledge.values = [read.value for read in run.reads]
    knowledge.pin(run)
    return ChannelGraph(network, image, run, join(run.constraints, run.slots), knowledge)


def run_trace(network: nn.Module, image: Tensor, **options: Any) -> Trace:
    """Run a network once, without data; see :func:`filtersurgeon.graph.tracer.trace`.

    Raises:
        GraphError: the network does not run on tensors without data.
        OutputError: it returns no tensors, or hides them in an unknown object.
    """
    try:
        try:
            return trace(network, image, **options)
        except ValuesNeededError:
            options["values"] = _find_values(network, image, options)
            return trace(network, image, **options)
    except FilterSurgeonError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise GraphError(
            describe_failure("cannot follow the channels of this network: ", error)
        ) from error


def _find_values(network: nn.Module, image: Tensor, options: dict[str, Any]) -> list[Any]:
    """Find the numbers that a network reads from tensors without data."""

    def run(values: Sequence[Any], limit: int | None) -> Trace:
        return trace(network, image, **{**options, "limit": limit, "values": values})

    with restore_attributes(network):
        return find_values(network, image, run)


def trace_shapes(network: nn.Module, size: Sequence[int]) -> Trace:
    """Run a network once, on the shape of one image alone.

    Args:
        network: in evaluation mode; its parameters may be of several types.
        size: of an image, (channels, height, width).

    Raises:
        GraphError: the network does not run on tensors without data.
        OutputError: it returns no tensors, or hides them in an unknown object.
    """
    types = {p.dtype for p in network.parameters() if p.is_floating_point()}
    if len(types) > 1:  # operators do not take several
        network = deepcopy(network).float()
    return run_trace(network, blank_image(network, size))


def blank_image(network: nn.Module, size: Sequence[int]) -> Tensor:
    """Give an image without data, ``(1, *size)``, of the type of a network's parameters."""
    floating = (p.dtype for p in network.parameters() if p.is_floating_point())
    dtype = next(floating, torch.float32)
    return torch.empty((1, *size), dtype=dtype, device="meta")


def _trial_cuts(graph: ChannelGraph) -> Iterator[Mask]:
    """Remove groups of each bundle that may go, so that misplaced cuts show.

    Every second one of some bundles and every third of others, as one number in Python may not
    stand for the channels of both; and the other way round where operators were read in one way of
    several, which may fit one cut by chance.
    """
    free = [bundle for bundle in graph.groups.bundles if not bundle.pinned]
    guessed = graph.knowledge.fixes or any(record.offered for record in graph.trace.records)
    for turn in range(2 if guessed else 1):
        keep = np.ones(len(graph.groups), bool)
        for number, bundle in enumerate(free):
            keep[bundle.groups[1 :: 2 + (number + turn) % 2]] = False
        yield keep
