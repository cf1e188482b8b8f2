"""The layers that read removed channels, and where a constant can be added to what they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from filtersurgeon.graph.follow import normalisations
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.weights import WeightLayer

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Reader:
    """A layer some of whose inputs are removed.

    Attributes:
        layer: the convolution or linear layer.
        members: ``(in,)``, the group of each input; -1 for one that is no channel.
        kept: ``(in,)``, which inputs are left.
    """

    layer: WeightLayer
    members: NDArray[np.int64]
    kept: Mask


def readers(opened: OpenedModel, keep: Mask) -> list[Reader]:
    """List the layers that read removed channels, but for those that look at each alone.

    A depthwise filter goes with its channel, so it has nothing to make up for.
    """
    of = opened.graph.groups.of
    found = []
    for layer in opened.layers:
        if layer.in_channels is None or layer.groups == len(layer.in_channels):
            continue
        members = np.where(layer.in_channels >= 0, of[layer.in_channels], -1)
        kept = (members < 0) | keep[members]
        if not kept.all():
            found.append(Reader(layer, members, kept))
    return found


class Intercepts:
    """Where constants that are added to a layer's outputs go.

    A constant goes into the layer's bias, or, with the other sign, into the running mean of the
    batch normalisation that reads its outputs.

    Args:
        opened: the network, as it is before the cut.
    """

    def __init__(self, opened: OpenedModel) -> None:
        network = opened.network
        names = {id(module): name for name, module in network.named_modules()}
        self._places: dict[str, tuple[str, int]] = {}
        for layer, norm in normalisations(network, opened.graph.trace).items():
            if isinstance(norm.running_mean, Tensor):
                self._places[layer] = (f"{names[id(norm)]}.running_mean", -1)
        for name, module in network.named_modules():
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                self._places[name] = (f"{name}.bias", 1)

    def __contains__(self, layer: str) -> bool:
        return layer in self._places

    def add(
        self, layer: str, constants: Tensor, opened: OpenedModel, changed: Tensors
    ) -> dict[str, Tensor]:
        """Give what changes when constants ``(out,)`` are added to a layer's outputs."""
        name, sign = self._places[layer]
        old = current(opened, name, changed)
        return {name: as_stored(old.double() + sign * constants, old)}


def current(opened: OpenedModel, name: str, changed: Tensors) -> Tensor:
    """Give a tensor of the network as it is by now."""
    owner, _, own = name.rpartition(".")
    found = changed.get(name)
    return (getattr(opened.network.get_submodule(owner), own) if found is None else found).detach()


def as_stored(value: Tensor, like: Tensor) -> Tensor:
    """Give a value the type of a tensor of the network, on the CPU."""
    return value.detach().to(device="cpu", dtype=like.dtype)
