"""A checkpoint opened for pruning: its network, the channel graph, and its weight layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import GraphError
from filtersurgeon.graph.graph import ChannelGraph, blank_image, channel_graph
from filtersurgeon.graph.weights import WeightLayer, parameter_layers, weight_layers
from filtersurgeon.networks.architecture import identify
from filtersurgeon.networks.build import build
from filtersurgeon.networks.dry_run import find_size
from filtersurgeon.networks.structure.plain_weights import make_all_plain


@dataclass(frozen=True)
class OpenedModel:
    """A network that is ready to be pruned.

    Attributes:
        checkpoint: what it was built from, its architecture stated.
        network: in evaluation mode, on the CPU, with the stored types. Convolutions that
            standardise their weights are ordinary ones here: with fewer inputs they would
            standardise to other values. Parameters that are stored in parts are ordinary ones too.
        graph: its channels.
        folded: names of the convolutions that standardised their weights.
        joined: the modules with parameters that are stored in parts, and the names of these.
    """

    checkpoint: Checkpoint
    network: nn.Module
    graph: ChannelGraph
    folded: frozenset[str]
    joined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def layers(self) -> list[WeightLayer]:
        """The convolutions and linear layers."""
        return weight_layers(self.graph)

    @cached_property
    def parameters(self) -> list[WeightLayer]:
        """The bare parameters that make channels."""
        return parameter_layers(self.graph, self.layers)

    @property
    def makers(self) -> list[WeightLayer]:
        """All that makes channels: layers and bare parameters."""
        return [*self.layers, *self.parameters]

    @cached_property
    def _bare(self) -> Mapping[str, WeightLayer]:
        return {x.tensor: x for x in self.parameters}

    def bare_parameter(self, tensor: str) -> WeightLayer | None:
        """Give the bare parameter of a name, if it makes channels."""
        return self._bare.get(tensor)

    def layer_name(self, tensor: str) -> str:
        """Name what makes or reads channels by one of its tensors."""
        found = self._bare.get(tensor)
        return tensor.rpartition(".")[0] if found is None else found.name

    @cached_property
    def free_layers(self) -> list[WeightLayer]:
        """The layers and bare parameters that make channels which can go."""
        groups = self.graph.groups
        return [
            layer
            for layer in self.makers
            if layer.out_channels is not None
            and not groups.pinned[groups.members(layer.out_channels)].all()
        ]


def open_model(checkpoint: Checkpoint, size: Sequence[int] | None = None) -> OpenedModel:
    """Build a checkpoint's network and follow its channels.

    Args:
        checkpoint: the network.
        size: of the image that is followed, without the axis of the batch; by default the
            network's own.

    Raises:
        ArchitectureError: the network cannot be built.
        GraphError: its channels cannot be followed.
    """
    checkpoint = identify(checkpoint)
    network = build(checkpoint)
    joined = make_all_plain(network)
    folded = fold_standardised(network)
    image = blank_image(network, size or find_size(network, checkpoint))
    try:
        graph = channel_graph(network, image)
    except GraphError as error:
        inputs = getattr(checkpoint.architecture, "inputs", None)
        if inputs is None or not isinstance(error.__cause__, KeyError | TypeError | AttributeError):
            raise
        raise GraphError(f"{error}; check `example_inputs`") from error.__cause__
    return OpenedModel(checkpoint, network, graph, folded, joined)


def fold_standardised(network: nn.Module) -> frozenset[str]:
    """Make ordinary convolutions of those that standardise their weights; give their names."""
    from filtersurgeon.networks.structure.edits.plain_convolution import (
        fold_standardisation,
        is_standardised,
    )
    from filtersurgeon.networks.structure.replay import exchange

    suspects = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and type(module) is not nn.Conv2d
    ]
    found = [(name, module) for name, module in suspects if is_standardised(module)]
    for _, module in found:
        exchange(network, module, fold_standardisation(module))
    return frozenset(name for name, _ in found)
