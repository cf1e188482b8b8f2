"""Second moments of the channels between layers, estimated from weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from filtersurgeon.graph.labels import Ids
from filtersurgeon.graph.weights import WeightLayer

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Maker:
    """What a layer makes of some channels.

    Attributes:
        filters: (channels, l), the filters of each, flattened.
        mean: (channels,), where their values lie.
        scale: (channels,), how far they spread, with the sign of the normalisation.
        normalised: whether a batch normalisation says so.
        alone: whether the filters look at one channel each, which another layer has made.
    """

    filters: Floats
    mean: Floats
    scale: Floats
    normalised: bool
    alone: bool


def second_moments(makers: Sequence[Maker]) -> Floats | None:
    """Estimate ``E[z_j z_k]`` of channels, ``(channels, channels)``, without data.

    On white inputs, two filters make values whose correlation is the cosine between them. A batch
    normalisation gives what it reads the mean beta and the deviation gamma, so that
    ``E[z_j z_k] = beta_j beta_k + gamma_j gamma_k cos(w_j, w_k)``; without one, beta is the bias
    and gamma the filter's norm. Layers that add up, as along a residual stream, add up here.
    Depthwise filters multiply the cosines: the activation between is taken to be linear.

    Returns:
        None if no layer but depthwise ones makes the channels.
    """
    sources = [maker for maker in makers if not maker.alone]
    if not sources:
        return None
    spread = sum(np.outer(m.scale, m.scale) * _cosines(m.filters) for m in sources)
    mean = np.asarray(sum(m.mean for m in sources))
    for maker in (m for m in makers if m.alone):
        spread = spread * _cosines(maker.filters)
        if maker.normalised:
            before = np.sqrt(spread.diagonal())
            scale, mean = maker.scale / np.where(before > 0, before, 1.0), maker.mean
        else:
            scale, mean = maker.scale, mean * maker.filters.sum(axis=1) + maker.mean
        spread = np.outer(scale, scale) * spread
    found: Floats = spread + np.outer(mean, mean)
    return found


def makers_of(
    network: nn.Module,
    layers: Sequence[WeightLayer],
    norms: Mapping[str, nn.Module],
    of: Ids,
    groups: Ids,
) -> list[Maker] | None:
    """Describe all layers that make some groups of channels, in the order of the network.

    Args:
        network: the network.
        layers: its convolutions and linear layers.
        norms: name of a convolution -> the batch normalisation that reads it.
        of: label -> group.
        groups: which channels; they touch the same axes.

    Returns:
        None if one of the layers cannot be described so: it is transposed, or makes more of one
        group than of another.
    """
    found = []
    for layer in layers:
        if layer.out_channels is None:
            continue
        rows = occurrences(of[layer.out_channels], groups)
        if rows is None or layer.transposed:
            return None
        if len(rows):
            found.append(_maker(network, layer, norms.get(layer.name), rows))
    return found


def occurrences(members: Ids, groups: Ids) -> Ids | None:
    """Find where each group stands along an axis.

    Args:
        members: the group of each index of the axis.
        groups: which to look for, ascending.

    Returns:
        Shape (occurrences of each, groups), no rows if there are none; None if some occur more
        often than others.
    """
    places = np.flatnonzero(np.isin(members, groups))
    order = places[np.argsort(members[places], kind="stable")]
    each, rest = divmod(len(order), len(groups))
    table = order.reshape(len(groups), each).T if not rest else np.empty((0, len(groups)), np.intp)
    if rest or not np.array_equal(members[table], np.broadcast_to(groups, table.shape)):
        return None
    return table


def _maker(network: nn.Module, layer: WeightLayer, norm: nn.Module | None, rows: Ids) -> Maker:
    weight = network.get_parameter(layer.tensor).detach().double().flatten(1).numpy()
    filters = np.concatenate([weight[row] for row in rows], axis=1)
    first = rows[0]
    scale, mean = _vector(norm, "weight", first), _vector(norm, "bias", first)
    alone = layer.groups > 1 and layer.groups == len(
        layer.out_channels if layer.out_channels is not None else ()
    )
    if scale is None or mean is None:
        bias = _vector(network.get_submodule(layer.name), "bias", first)
        norms = np.linalg.norm(filters, axis=1)
        return Maker(filters, np.zeros(len(first)) if bias is None else bias, norms, False, alone)
    return Maker(filters, mean, scale, True, alone)


def _vector(module: nn.Module | None, name: str, rows: Ids) -> Floats | None:
    found = getattr(module, name, None)
    return found.detach().double().numpy()[rows] if isinstance(found, Tensor) else None


def _cosines(filters: Floats) -> Floats:
    norms = np.linalg.norm(filters, axis=1, keepdims=True)
    units = filters / np.where(norms > 0, norms, 1.0)
    found: Floats = units @ units.T
    return found
