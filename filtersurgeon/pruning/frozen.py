"""What ``keep_frozen`` leaves alone: every channel of a parameter that does not train."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from glob import escape

from filtersurgeon.errors import OptionError
from filtersurgeon.graph.labels import Reason
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.networks.in_memory import InMemory
from filtersurgeon.pruning.protection import Protection, protect
from filtersurgeon.pruning.settings import PruneSettings


def protect_as(
    opened: OpenedModel, settings: PruneSettings, ranked: Collection[str] | None = None
) -> Protection:
    """Pin the channels of layers that are not selected, and of frozen parameters if so wished.

    Args:
        opened: the network.
        settings: ``layers`` and ``keep_frozen``.
        ranked: the only layers that may be selected; None for no such bound.

    Raises:
        LayerError: a pattern matches no layer.
        OptionError: parameters of a checkpoint are neither frozen nor trainable, or all layers are
            frozen.
    """
    if not settings.keep_frozen:
        return protect(opened, settings.layers, ranked)
    names = _frozen_parameters(opened)
    own = {x.name for x in opened.makers if {x.tensor, f"{x.tensor[:-6]}bias"} & names}
    if len(own) == len(opened.makers):
        raise OptionError("every layer is frozen, and `keep_frozen` is set: nothing can be cut")
    held = _hold(opened, names)
    if not own:
        return protect(held, settings.layers, ranked)
    globs = (*settings.layers, *(f"!{escape(name)}" for name in sorted(own)))
    found = protect(held, globs, ranked)
    return found if settings.layers else replace(found, by="`keep_frozen`")


def _frozen_parameters(opened: OpenedModel) -> set[str]:
    architecture = opened.checkpoint.architecture
    if not isinstance(architecture, InMemory):
        raise OptionError(
            "`keep_frozen` needs a module in memory: a file does not say which parameters are "
            "frozen; pass the layers to keep with `layers`, such as '!conv1'"
        )
    parameters = architecture.module.named_parameters(remove_duplicate=False)
    return {name for name, parameter in parameters if not parameter.requires_grad}


def _hold(opened: OpenedModel, names: Collection[str]) -> OpenedModel:
    """Pin every channel that lies on an axis of one of these tensors."""
    graph, groups = opened.graph, opened.graph.groups
    pins, pinned = [], groups.pinned.copy()
    for name in sorted(names):
        for ids in graph.trace.slots.get(graph.trace.aliases.get(name, name), ()):
            if ids is not None and (channels := ids[ids >= 0]).size:
                layer = name.rpartition(".")[0]
                why = Reason("", layer, f"{name} is frozen, and `keep_frozen` is set")
                pins.append((channels, why))
                pinned[groups.of[channels]] = True
    constraints = replace(groups.constraints, pins=[*pins, *groups.constraints.pins])
    held = replace(groups, pinned=pinned, constraints=constraints)
    return replace(opened, graph=replace(graph, groups=held))
