"""Cutting the same share of every layer's filters, the least important by any ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.graph.groups import Groups
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.guard import keep_alive, round_widths
from filtersurgeon.pruning.plan import Plan

Standing = Mapping[str, NDArray[np.float64]]
"""Layer -> (out,), from 0 for its least important filter to 1 for its most important one."""


def standing(order: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn an order, most important first, into numbers that compare between layers."""
    count = len(order)
    found = np.empty(count)
    found[order] = 1.0 - np.arange(count) / max(count - 1, 1)
    return found


def plan_per_layer(
    groups: Groups,
    layers: Sequence[WeightLayer],
    standings: Standing,
    sparsity: float,
    *,
    min_channels: int = 1,
    round_to: int = 1,
) -> Plan:
    """Plan to cut a share of the channels of every bundle.

    Filters of several layers whose channels live or die together, as along a residual stream, are
    judged by their mean standing.

    Args:
        groups: the channels of the network.
        layers: its convolutions and linear layers.
        standings: of the layers whose filters may go.
        sparsity: share of each bundle's channels to cut, their number rounded down.
        min_channels: how many channels every layer keeps.
        round_to: widths are rounded up to a multiple.
    """
    total, votes = np.zeros(len(groups)), np.zeros(len(groups))
    for layer in layers:
        if layer.name in standings and layer.made is not None:
            members, own = groups.members(layer.made), standings[layer.name][layer.made >= 0]
            np.add.at(total, members, own)
            np.add.at(votes, members, 1)
    worth = total / np.maximum(votes, 1)
    left = np.ones(len(groups), bool)
    for bundle in groups.bundles:
        members = bundle.groups[(votes[bundle.groups] > 0) & ~groups.pinned[bundle.groups]]
        count = int(np.floor(sparsity * len(members) * (1 + 1e-12)))
        left[members[np.lexsort((members, worth[members]))[:count]]] = False
    rescued = keep_alive(groups, left, worth, min_channels)
    round_widths(groups, left, worth, round_to)
    names = {layer.tensor: layer.name for layer in layers}
    return Plan(left, {}, tuple(dict.fromkeys(names[n] for n, _ in rescued if n in names)))
