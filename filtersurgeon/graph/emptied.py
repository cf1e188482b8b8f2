"""Layers that are left without channels: which ones give a constant then, and what stands in.

A residual branch goes whole where all channels between two of its convolutions go. Its shapes keep
one channel, which nothing reads, because few operators take none.
"""

from __future__ import annotations

from dataclasses import dataclass

from filtersurgeon.errors import GraphError
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Axis
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.weights import WeightLayer, count_kept
from filtersurgeon.networks.modules.constant import is_exchangeable


@dataclass(frozen=True)
class Standing:
    """A cut in which no axis is empty.

    Attributes:
        keep: group -> whether it is kept; one of each bundle that goes whole is.
        constant: the convolutions that give a constant: they read nothing, or nothing reads them.
    """

    keep: Mask
    constant: tuple[WeightLayer, ...] = ()

    @property
    def gone(self) -> frozenset[str]:
        """Names of the weights that go."""
        return frozenset(layer.tensor for layer in self.constant)

    def more_biases(self, opened: OpenedModel) -> int:
        """Count the values of the constants that were no biases before."""
        found = 0
        for layer in self.constant:
            weight = opened.network.get_parameter(layer.tensor)
            if opened.network.get_submodule(layer.name).bias is None:
                of = opened.graph.groups.of
                found += count_kept(layer.out_channels, len(weight), self.keep, of)
        return found


def stand_in(opened: OpenedModel, keep: Mask) -> Standing:
    """See what a cut empties.

    Args:
        opened: the network.
        keep: group -> whether it is kept.

    Raises:
        GraphError: a layer would read nothing that is no ordinary convolution.
    """
    groups, standing = opened.graph.groups, keep.copy()
    for bundle in groups.bundles:
        if not keep[bundle.groups].any() and any(_empty(opened, *x, keep) for x in bundle.axes):
            standing[bundle.groups[0]] = True
    if (standing == keep).all():
        return Standing(keep)
    constant = []
    for layer in opened.layers:
        reads, makes = (_lives(opened, x, keep) for x in (layer.in_channels, layer.out_channels))
        if reads and makes:
            continue
        if can_be_constant(opened, layer):
            constant.append(layer)
        elif not reads:
            raise GraphError(
                f"layer {layer.name} would read nothing, and it is no ordinary convolution; "
                "keep some channels before it"
            )
    return Standing(standing, tuple(constant))


def _empty(opened: OpenedModel, name: str, axis: int, keep: Mask) -> bool:
    return not _lives(opened, opened.graph.groups.slots[name][axis], keep)


def _lives(opened: OpenedModel, axis: Axis, keep: Mask) -> bool:
    """Tell whether an axis has channels that are kept, or is none of channels."""
    if axis is None or bool((axis < 0).any()):
        return True
    return bool(keep[opened.graph.groups.of[axis]].any())


def can_be_constant(opened: OpenedModel, layer: WeightLayer) -> bool:
    """Tell whether a constant can take the place of a layer."""
    special = layer.name in opened.folded or layer.name in opened.joined
    if special or layer.tensor in opened.graph.trace.aliases.values():
        return False  # its weight is stored otherwise, or in several places
    return is_exchangeable(opened.network.get_submodule(layer.name))
