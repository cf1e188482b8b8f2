"""Plans: which channels are removed, and which kernels are zeroed, before anything is changed.

A plan comes from ranks of the filters of every layer (``plan_per_layer``), or from scores of all
spatial kernels (``plan_channelprune``; source: Gaudio et al., *ExplainFix: Explainable Spatially
Fixed Deep Networks*, section 3.3). ``keep_alive`` and ``round_widths`` bound both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.filters import count_share
from filtersurgeon.graph.groups import Groups, Mask, channels_each
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.ranking.kernel_scores import mark_kernels


@dataclass(frozen=True)
class Plan:
    """What is to be done to a network.

    Attributes:
        keep: group -> whether it is kept.
        zeroed: name of a layer -> (out, in/groups), which of its kernels are zeroed.
        rescued: layers that would have been emptied.
        shifts: tensors, in original shapes, that take up constants of channels that go.
    """

    keep: Mask
    zeroed: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    rescued: tuple[str, ...] = ()
    shifts: Mapping[str, Tensor] = field(default_factory=dict)


PercentileRanks = Mapping[str, NDArray[np.float64]]
"""Layer -> (out,), from 0 for its least important filter to 1 for its most important one."""


def percentile_ranks(order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn an order, most important first, into numbers that compare between layers."""
    count = len(order)
    found = np.empty(count)
    found[order] = 1.0 - np.arange(count) / max(count - 1, 1)
    return found


Scores = NDArray[np.float64]
"""Group -> how much it is worth, higher = more important."""


@dataclass(frozen=True)
class ChannelScores:
    """What channels are worth within their bundle.

    Attributes:
        scores: group -> how much it is worth.
        scored: group -> whether it is scored; no other may go.
    """

    scores: Scores
    scored: Mask


def mean_ranks(
    groups: Groups, layers: Sequence[WeightLayer], ranks: PercentileRanks
) -> ChannelScores:
    """Give each group the mean percentile rank of the filters that make it.

    Filters of several layers whose channels are removed together, as along a residual stream, are
    ranked so by all of them.
    """
    total, votes = np.zeros(len(groups)), np.zeros(len(groups))
    for layer in layers:
        if layer.name in ranks and layer.out_channels is not None:
            members = groups.members(layer.out_channels)
            np.add.at(total, members, ranks[layer.name][layer.out_channels >= 0])
            np.add.at(votes, members, 1)
    return ChannelScores(total / np.maximum(votes, 1), votes > 0)


def plan_per_layer(
    groups: Groups,
    layers: Sequence[WeightLayer],
    worth: ChannelScores,
    sparsity: float,
    *,
    ratios: Mapping[str, float] = MappingProxyType({}),
    min_channels: int = 1,
    round_to: int = 1,
) -> Plan:
    """Plan to cut a share of the channels of every bundle.

    Args:
        groups: the channels of the network.
        layers: its convolutions and linear layers.
        worth: scores of channels.
        sparsity: share of each bundle's channels to cut, their number rounded down.
        ratios: layer -> share, in place of the sparsity. Of several for the layers that make the
            same channels, the smallest holds.
        min_channels: how many channels every layer keeps.
        round_to: widths are rounded up to a multiple.
    """
    shares = np.full(len(groups), np.inf)
    for layer in layers:
        if layer.name in ratios and layer.out_channels is not None:
            members = groups.members(layer.out_channels)
            np.minimum.at(shares, members, ratios[layer.name])
    shares[np.isinf(shares)] = sparsity
    keep = np.ones(len(groups), bool)
    for bundle in groups.bundles:
        members = bundle.groups[worth.scored[bundle.groups] & ~groups.pinned[bundle.groups]]
        share = shares[bundle.groups].min(initial=1)
        count = count_share(share, len(members))
        keep[members[np.lexsort((members, worth.scores[members]))[:count]]] = False
    rescued = keep_alive(groups, keep, worth.scores, min_channels)
    round_widths(groups, keep, worth.scores, round_to)
    names = {layer.tensor: layer.name for layer in layers}
    return Plan(keep, {}, tuple(dict.fromkeys(names[n] for n, _ in rescued if n in names)))


Kernels = Mapping[str, NDArray[np.float64]]
Zeroed = dict[str, NDArray[np.bool_]]


def plan_channelprune(
    groups: Groups,
    layers: Sequence[WeightLayer],
    scores: Kernels,
    sparsity: float,
    *,
    min_channels: int = 1,
    round_to: int = 1,
) -> Plan:
    """Plan steps 2 to 4 of ChannelPrune.

    A group of channels goes when, in any spatial convolution that makes or reads it, all of its
    kernels there are zeroed.

    Args:
        groups: the channels of the network.
        layers: its convolutions and linear layers.
        scores: layer -> (out, in/groups), how salient every spatial kernel is.
        sparsity: share of all these kernels to zero, the least salient of the network.
        min_channels: how many channels every layer keeps.
        round_to: widths are rounded up to a multiple.
    """
    zeroed, spared = zero_least(scores, sparsity, min_channels)
    worth = np.zeros(len(groups))
    keep = np.ones(len(groups), bool)
    for layer in layers:
        if layer.name not in scores:
            continue
        kernels = zeroed[layer.name]
        for ids, idle, value in _both_sides(layer, kernels, scores[layer.name]):
            members = groups.of[ids]
            np.add.at(worth, members, value)
            keep &= ~_all_idle(members, idle, len(groups))
    keep |= groups.pinned
    rescued = keep_alive(groups, keep, worth, min_channels)
    round_widths(groups, keep, worth, round_to)
    names = {layer.tensor: layer.name for layer in layers}
    emptied = dict.fromkeys([*spared, *(names[name] for name, _ in rescued if name in names)])
    return Plan(keep, zeroed, tuple(emptied))


def by_filter(layers: Sequence[WeightLayer], scores: Kernels) -> Kernels:
    """Turn scores in the order of the weights into (out, in/groups), also of transposed layers.

    Args:
        layers: of the network; scores of others are left out.
        scores: layer -> one for each kernel, as the first two axes of its weight.
    """
    known = {layer.name: layer for layer in layers}
    return {
        name: known[name].filters_first(values) for name, values in scores.items() if name in known
    }


def zero_least(scores: Kernels, sparsity: float, least: int = 1) -> tuple[Zeroed, list[str]]:
    """Choose the least salient kernels of a network.

    A layer that would lose all its kernels keeps the best one of each of its best filters.

    Args:
        scores: layer -> (out, in/groups).
        sparsity: share of all kernels; their number is rounded down.
        least: how many filters a layer keeps kernels of.

    Returns:
        layer -> (out, in/groups), which kernels to zero; and the layers that would be emptied.
    """
    zeroed: Zeroed = mark_kernels(scores, sparsity)
    emptied = [name for name, mask in zeroed.items() if mask.all()]
    for name in emptied:
        best = scores[name].argmax(axis=1)
        rows = np.argsort(-scores[name].max(axis=1), kind="stable")[:least]
        zeroed[name][rows, best[rows]] = False
    return zeroed, emptied


def _both_sides(
    layer: WeightLayer, zeroed: NDArray[np.bool_], scores: NDArray[np.float64]
) -> list[tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]]:
    """Give labels, idleness and worth of the channels that a layer makes, and that it reads.

    With groups, an input is read by the filters of its own group only.
    """
    outputs, depth = zeroed.shape
    per_group = (layer.groups, outputs // layer.groups, depth)
    sides = [
        (layer.out_channels, np.asarray(zeroed.all(axis=1)), scores.sum(axis=1)),
        (
            layer.in_channels,
            np.asarray(zeroed.reshape(per_group).all(axis=1)).ravel(),
            scores.reshape(per_group).sum(axis=1).ravel(),
        ),
    ]
    return [
        (ids[ids >= 0], idle[ids >= 0], value[ids >= 0])
        for ids, idle, value in sides
        if ids is not None
    ]


def _all_idle(members: NDArray[np.int64], idle: NDArray[np.bool_], count: int) -> Mask:
    """Tell which groups have channels here, all of them idle."""
    present = np.bincount(members, minlength=count)
    resting = np.bincount(members[idle], minlength=count)
    return (present > 0) & (present == resting)


def keep_alive(groups: Groups, keep: Mask, worth: Scores, least: int = 1) -> list[tuple[str, int]]:
    """Restore the most important groups of every axis that would have too few, in place.

    Args:
        groups: the channels.
        keep: group -> whether it is kept; changed.
        worth: what groups are worth.
        least: how many channels every axis of every tensor keeps.

    Returns:
        The tensor and axis wherever something was brought back.
    """
    rescued = []
    owners, members_of_all, counts = groups.axes
    stops = np.cumsum(counts)
    # Groups only come back, so that an axis with enough of them needs no second look.
    enough = np.add.reduceat(keep[members_of_all], stops - counts) >= np.minimum(least, counts)
    for number in np.flatnonzero(~enough):
        members = members_of_all[stops[number] - counts[number] : stops[number]]
        alive = keep[members]
        wanted = min(least, len(members))
        if int(alive.sum()) >= wanted:
            continue
        rescued.append(owners[number])
        for group in _best_first(np.unique(members[~alive]), worth):
            keep[group] = True
            if int(keep[members].sum()) >= wanted:
                break
    return rescued


def round_widths(groups: Groups, keep: Mask, worth: Scores, multiple: int) -> None:
    """Bring groups back until every bundle makes a multiple of so many channels, in place.

    A bundle that has no such number to begin with keeps what it has.
    """
    if multiple == 1:
        return
    for bundle in groups.bundles:
        members = bundle.groups
        kept = int(keep[members].sum())
        if bundle.pinned or kept == len(members):
            continue
        step = multiple // gcd(multiple, channels_each(groups, bundle.axes, members[0]))
        wanted = min(len(members), -(-kept // step) * step)
        for group in _best_first(members[~keep[members]], worth)[: wanted - kept]:
            keep[group] = True


def _best_first(members: NDArray[np.int64], worth: Scores) -> NDArray[np.int64]:
    return members[np.lexsort((members, -worth[members]))]
