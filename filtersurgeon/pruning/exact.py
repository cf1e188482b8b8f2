"""Exact pruning: channels whose absence leaves the network's outputs as they are.

A channel can go if whoever reads it ignores it (all its kernels there are zero), or reads a
constant from it, which moves into the reader's bias or into the normalisation after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from filtersurgeon.graph.constants import Constants, constant_inputs
from filtersurgeon.graph.follow import normalisations
from filtersurgeon.graph.graph import ChannelGraph
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.record import Seen
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.plan import Plan, Zeroed, keep_alive, round_widths

_EVEN = 1e-9


@dataclass(frozen=True)
class _Reader:
    """A layer that reads channels.

    Attributes:
        layer: the layer.
        weight: ``(groups, out per group, in per group, positions)``.
        constants: what it reads.
        shift: name of the tensor that takes up a constant, and the sign; None if there is none.
        padded: whether it pads with zeros, so that a constant is none at the border.
    """

    layer: WeightLayer
    weight: Tensor
    constants: Constants | None
    shift: tuple[str, float] | None
    padded: bool


def plan_exact(
    opened: OpenedModel,
    zeroed: Zeroed,
    *,
    fold_borders: bool = False,
    min_channels: int = 1,
    round_to: int = 1,
) -> Plan:
    """Plan to cut every channel that can go without a trace once some kernels are zeroed.

    Args:
        opened: the network.
        zeroed: layer -> (out, in/groups), which kernels are zeroed, also of transposed ones.
        fold_borders: also cut channels that cannot be folded exactly because of zero padding.
        min_channels: how many channels every layer keeps.
        round_to: widths are rounded up to a multiple.

    Raises:
        GraphError: which channels are constant cannot be told.
    """
    changed = zeroed_weights(opened, zeroed)
    graph = opened.graph
    readers = _readers(opened, changed)
    fixed = graph.groups.pinned | _read_otherwise(graph, readers)
    worth = np.zeros(len(fixed))
    rescued: list[tuple[str, int]] = []
    while True:
        keep = _keep_by_need(graph, readers, fixed, fold_borders)
        # What is brought back is computed, so what it reads has to be there, too.
        needed = keep.copy()
        rescued += keep_alive(graph.groups, keep, worth, min_channels)
        round_widths(graph.groups, keep, worth, round_to)
        if (keep == needed).all():
            break
        fixed |= keep
    names = {reader.layer.tensor: reader.layer.name for reader in readers}
    emptied = tuple(dict.fromkeys(names[name] for name, _ in rescued if name in names))
    return Plan(keep, zeroed, emptied, _fold_constants(opened, readers, keep, changed))


def still_used(opened: OpenedModel, zeroed: Mapping[str, NDArray[np.bool_]]) -> Mask:
    """Tell which channels carry something of the image to an output once kernels are zeroed.

    Args:
        opened: the network.
        zeroed: layer -> (out, in/groups), which kernels are zeroed.

    Returns:
        group -> whether it does.

    Raises:
        GraphError: which channels are constant cannot be told.
    """
    readers = _readers(opened, zeroed_weights(opened, zeroed))
    # A constant says nothing about the image, whether or not it can move elsewhere.
    folding = [replace(reader, shift=reader.shift or ("", 1.0)) for reader in readers]
    groups = opened.graph.groups
    return _keep_by_need(opened.graph, folding, groups.pinned, fold_borders=True)


def _keep_by_need(
    graph: ChannelGraph, readers: Sequence[_Reader], fixed: Mask, fold_borders: bool
) -> Mask:
    """Take away what nobody needs until everything that is kept is needed, or fixed."""
    keep = np.ones(len(fixed), bool)
    while True:
        needed = fixed.copy()
        for reader in readers:
            needed |= _needed(graph, reader, keep, fold_borders)
        if (needed == keep).all():
            return keep
        keep = needed


def zeroed_weights(
    opened: OpenedModel, zeroed: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Tensor]:
    """Give the weights with their zeroed kernels."""
    found: dict[str, Tensor] = {}
    for layer in opened.layers:
        mask = zeroed.get(layer.name)
        if mask is not None and mask.any():
            # Layers may share a weight.
            weight = found.get(layer.tensor)
            if weight is None:
                weight = opened.network.get_parameter(layer.tensor).detach().clone()
            weight[torch.from_numpy(layer.as_stored(mask))] = 0
            found[layer.tensor] = weight
    return found


def _readers(opened: OpenedModel, changed: Mapping[str, Tensor]) -> list[_Reader]:
    network, image = opened.network, opened.graph.image
    constants = constant_inputs(network, image, changed)
    norms = normalisations(network, opened.graph.trace)
    names = {id(module): name for name, module in network.named_modules()}
    found = []
    for layer in opened.layers:
        module = network.get_submodule(layer.name)
        weight = changed.get(layer.tensor, network.get_parameter(layer.tensor)).detach()
        norm = norms.get(layer.name)
        shift = _shift(layer, module, norm, "" if norm is None else names[id(norm)])
        padding = getattr(module, "padding", 0)
        padded = padding not in (0, "valid") and any(
            amount != 0 for amount in (padding if isinstance(padding, tuple) else (1,))
        )
        same = type(module).__name__ == "Conv2dSame"
        found.append(
            _Reader(
                layer, _by_group(layer, weight.double()), constants.get(layer.name), shift,
                padded or same,
            )
        )  # fmt: skip
    return found


def _shift(
    layer: WeightLayer, module: nn.Module, norm: nn.Module | None, name: str
) -> tuple[str, float] | None:
    """Name the tensor that takes up a constant which a layer reads, and the sign; None if none can.

    Args:
        layer: the layer.
        module: its module.
        norm: the normalisation that reads its outputs.
        name: of the normalisation.
    """
    if layer.transposed and any(n != 1 for n in (*layer.kernel, *module.stride)):  # type: ignore[misc]
        # A constant gives one value for each place within the stride, and others at the border.
        return None
    if module.bias is not None:
        return f"{layer.name}.bias", 1.0
    if norm is not None and norm.running_mean is not None:
        return f"{name}.running_mean", -1.0
    return None


def _by_group(layer: WeightLayer, weight: Tensor) -> Tensor:
    split = layer.filters_first(weight).unflatten(0, (layer.groups, -1))
    return split.reshape(*split.shape[:3], -1)


def _read_otherwise(graph: ChannelGraph, readers: Sequence[_Reader]) -> Mask:
    """Find the groups that something else than these layers sums over."""
    own = np.zeros(graph.trace.constraints.size, bool)
    for reader in readers:
        ids = reader.layer.in_channels
        if ids is not None:
            own[ids[ids >= 0]] = True
    weights = {reader.layer.tensor for reader in readers}
    found = np.zeros(len(graph.groups), bool)
    for record in graph.trace.records:
        if record.operator.sums is None:
            continue
        summed = record.operator.sums(record)
        if summed.weight in weights:
            continue
        if summed.axis is not None and own[summed.axis[summed.axis >= 0]].all():
            continue
        read = _groups_in(graph, record.inputs)
        found |= read if summed.everything else read & ~_groups_in(graph, record.results)
    return found


def _groups_in(graph: ChannelGraph, tensors: Sequence[Seen]) -> Mask:
    found = np.zeros(len(graph.groups), bool)
    for seen in tensors:
        for ids in seen.labels:
            if ids is not None:
                found[graph.groups.of[ids[ids >= 0]]] = True
    return found


def _needed(graph: ChannelGraph, reader: _Reader, keep: Mask, fold_borders: bool) -> Mask:
    """Find the groups that a layer reads, for one of its filters that is kept, and cannot miss."""
    found = np.zeros(len(graph.groups), bool)
    ids = reader.layer.in_channels
    if ids is None:
        return found
    felt = _felt(graph, reader, keep)
    free = _free(reader, fold_borders)
    channels = ids >= 0
    found[graph.groups.of[ids[channels & felt & ~free]]] = True
    return found


def _felt(graph: ChannelGraph, reader: _Reader, keep: Mask) -> NDArray[np.bool_]:
    """Tell which inputs have weights that are not zero in a filter that is kept."""
    out_channels = reader.layer.out_channels
    weighs = (reader.weight != 0).any(-1).numpy()
    if out_channels is not None:
        kept = (out_channels < 0) | keep[graph.groups.of[out_channels]]
        weighs = weighs & kept.reshape(weighs.shape[0], -1, 1)
    felt: NDArray[np.bool_] = weighs.any(1).ravel()
    return felt


def _free(reader: _Reader, fold_borders: bool) -> NDArray[np.bool_]:
    """Tell which inputs are constants that can move elsewhere."""
    ids, constants = reader.layer.in_channels, reader.constants
    assert ids is not None
    if constants is None:  # never run
        return np.ones(len(ids), bool)
    values, spread = constants.values.numpy(), constants.spread.numpy()
    known = ~np.isnan(values)
    even = spread <= _EVEN * np.maximum(1.0, np.abs(values))
    nothing = known & (values == 0) & (spread == 0)
    if reader.shift is None:
        return nothing
    if fold_borders:
        return known
    return nothing | (known & even & (not reader.padded))


def _fold_constants(
    opened: OpenedModel, readers: Sequence[_Reader], keep: Mask, changed: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Move what the removed channels would have brought into biases and means."""
    own = {**dict(opened.network.named_parameters()), **dict(opened.network.named_buffers())}
    found: dict[str, Tensor] = {}
    for reader in readers:
        ids, constants = reader.layer.in_channels, reader.constants
        if ids is None or constants is None or reader.shift is None:
            continue
        gone = (ids >= 0) & ~keep[opened.graph.groups.of[ids]]
        values = torch.where(torch.from_numpy(gone), constants.values, 0.0).nan_to_num(0.0)
        if not values.any():
            continue
        per_group = values.reshape(reader.weight.shape[0], 1, -1)
        brought = (reader.weight.sum(-1) * per_group).sum(-1).ravel()
        name, sign = reader.shift
        before = found.get(name, changed.get(name, own[name])).detach()
        found[name] = (before.double() + sign * brought).to(before.dtype)
    return found
