"""ChannelPrune: zero the least salient kernels of a whole network, cut the channels that follow.

Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.graph.groups import Groups, Mask
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.guard import keep_alive, round_widths
from filtersurgeon.pruning.plan import Plan

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
    left = np.ones(len(groups), bool)
    for layer in layers:
        if layer.name not in scores:
            continue
        kernels = zeroed[layer.name]
        for ids, idle, value in _both_sides(layer, kernels, scores[layer.name]):
            members = groups.of[ids]
            np.add.at(worth, members, value)
            left &= ~_all_idle(members, idle, len(groups))
    left |= groups.pinned
    rescued = keep_alive(groups, left, worth, min_channels)
    round_widths(groups, left, worth, round_to)
    names = {layer.tensor: layer.name for layer in layers}
    emptied = dict.fromkeys([*spared, *(names[name] for name, _ in rescued if name in names)])
    return Plan(left, zeroed, tuple(emptied))


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
    flat = np.concatenate([values.ravel() for values in scores.values()])
    chosen = np.zeros(len(flat), bool)
    # The product may fall just short of the whole number that is meant, as 0.3 * 10 does.
    count = int(np.floor(sparsity * len(flat) * (1 + 1e-12)))
    chosen[np.argsort(flat, kind="stable")[:count]] = True
    cuts = np.cumsum([values.size for values in scores.values()])[:-1]
    zeroed: Zeroed = {
        name: part.reshape(scores[name].shape)
        for name, part in zip(scores, np.split(chosen, cuts), strict=True)
    }
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
        (layer.made, np.asarray(zeroed.all(axis=1)), scores.sum(axis=1)),
        (
            layer.read,
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
