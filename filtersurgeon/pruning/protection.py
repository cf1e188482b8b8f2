"""What ``--layers`` protects: a layer that is not selected keeps all its filters.

Channels that several layers make, as along a residual stream, live or die in all of them. So they
may go only if every one of these layers is selected. A depthwise convolution makes channels, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from filtersurgeon.errors import LayerError
from filtersurgeon.filters import select_layers
from filtersurgeon.graph.groups import Groups
from filtersurgeon.graph.labels import Reason
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.nothing_to_cut import nothing_to_cut

_NAMED = 6


@dataclass(frozen=True)
class Protection:
    """A network in which only the channels of selected layers may go.

    Attributes:
        opened: the network; its protected channels are pinned.
        original: the network, without this protection.
        selected: names of the layers that may lose filters.
        shared: selected layer -> the layer for whose sake some of its filters stay.
        by: what selects them.
    """

    opened: OpenedModel
    original: OpenedModel
    selected: frozenset[str]
    shared: Mapping[str, str]
    by: str

    def notes(self) -> list[str]:
        """Name the selected layers that keep filters."""
        if not self.shared:
            return []
        told = [f"{name} (with {other})" for name, other in self.shared.items()]
        more = f" and {len(told) - _NAMED} more" if len(told) > _NAMED else ""
        return [
            f"selected layers keep the channels that they share with layers which {self.by} leaves "
            f"out: {', '.join(told[:_NAMED])}{more}"
        ]

    def free_layers(self) -> list[WeightLayer]:
        """Give the layers that may lose filters.

        Raises:
            LayerError: there are none; says why. A ``PinnedError`` holds the reasons by layer.
        """
        found = [layer for layer in self.opened.free_layers if layer.name in self.selected]
        if found:
            return found
        if self.shared:
            name, other = next(iter(self.shared.items()))
            raise LayerError(
                f"{self.by} leaves no filter to cut: {name} shares its channels with {other}, "
                f"which is left out; select {other}, too"
            )
        selected = [layer for layer in self.opened.makers if layer.name in self.selected]
        others = f"; select others, {self.by} leaves them out" if self.original.free_layers else ""
        raise nothing_to_cut(self.original, selected, others)


def protect(
    opened: OpenedModel, globs: Iterable[str] = (), ranked: Collection[str] | None = None
) -> Protection:
    """Pin the channels of all layers that are not selected.

    Args:
        opened: the network.
        globs: patterns of layers; none selects all.
        ranked: the only layers that may be selected; None for no such bound.

    Raises:
        LayerError: a pattern matches no layer.
    """
    chosen = {layer.name for layer in select_layers(opened.makers, globs)}
    by = "`layers`"
    if ranked is not None and not chosen <= set(ranked):
        chosen, by = chosen & set(ranked), "the ranking"
    others = [x for x in opened.makers if x.name not in chosen and x.out_channels is not None]
    groups = opened.graph.groups
    keeper: dict[int, str] = {}
    pins = list(groups.constraints.pins)
    for layer in others:
        assert layer.out_channels is not None
        for group in np.unique(groups.members(layer.out_channels)).tolist():
            keeper.setdefault(group, layer.name)
        why = Reason("", layer.name, f"made by {layer.name}, which {by} leaves out")
        pins.append((layer.out_channels[layer.out_channels >= 0], why))
    pinned = groups.pinned.copy()
    pinned[list(keeper)] = True
    shared = {
        layer.name: other
        for layer in opened.makers
        if layer.name in chosen and (other := _sharer(groups, layer, keeper))
    }
    held = replace(groups, pinned=pinned, constraints=replace(groups.constraints, pins=pins))
    own = replace(opened, graph=replace(opened.graph, groups=held))
    return Protection(own, opened, frozenset(chosen), shared, by)


def _sharer(groups: Groups, layer: WeightLayer, keeper: Mapping[int, str]) -> str | None:
    """Name the layer for whose sake channels stay that this one makes; None if all may go."""
    if layer.out_channels is None:
        return None
    members = groups.members(layer.out_channels)
    free = members[~groups.pinned[members]].tolist()
    return next((keeper[group] for group in free if group in keeper), None)
