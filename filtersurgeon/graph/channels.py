"""The channels of a network: which go together, which can be removed, and which never."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import select_layers
from filtersurgeon.graph.reasons import Pin
from filtersurgeon.networks.opened_module import check_module, open_module

if TYPE_CHECKING:
    from torch import nn

    from filtersurgeon.graph.channel_groups import ChannelGroup
    from filtersurgeon.graph.graph import ChannelGraph
    from filtersurgeon.graph.groups import Bundle
    from filtersurgeon.graph.opened_model import OpenedModel

SCHEMA = "filtersurgeon.channels/1"


@dataclass(frozen=True)
class ChannelBundle:
    """Channels that pass through the same layers.

    Attributes:
        channels: how many can be told apart; each is removed with all its weights, or not at all.
        free: whether they may be removed.
        made_by: convolutions and linear layers whose outputs they are, in the order of the run.
        read_by: those whose inputs they are.
        carried_by: other modules with a value for each, such as normalisations.
        pins: why they may not be removed.
    """

    channels: int
    free: bool
    made_by: tuple[str, ...]
    read_by: tuple[str, ...]
    carried_by: tuple[str, ...]
    pins: tuple[Pin, ...]


@dataclass(frozen=True)
class Channels(Tabular):
    """The channels of a network: which depend on each other, and which can be removed.

    Attributes:
        checkpoint: what was looked at.
        input_size: channels, height and width of the image that was followed.
        layers: convolutions and linear layers, in the order of the run.
        bundles: their channels, in the order of the run, before any removal.
        groups: the channels that may be removed, as objects that do so.
    """

    checkpoint: Checkpoint
    input_size: tuple[int, ...]
    layers: tuple[str, ...]
    bundles: tuple[ChannelBundle, ...]
    groups: tuple[ChannelGroup, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        entries = (
            f"{x.channels} {'free' if x.free else 'pinned'}: {', '.join(x.made_by) or 'the input'}"
            for x in self.bundles
        )
        return summarise(
            self,
            entries,
            checkpoint=self.checkpoint.name,
            input_size=self.input_size,
            layers=len(self.layers),
            free=self.free,
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each bundle of channels."""
        for bundle in self.bundles:
            yield {
                "channels": bundle.channels,
                "free": bundle.free,
                "made by": ", ".join(bundle.made_by) or "the input",
                "read by": ", ".join(bundle.read_by),
                "pinned because": next(short_reasons(bundle), ""),
            }

    @property
    def free(self) -> int:
        """How many channels may be removed."""
        return sum(bundle.channels for bundle in self.bundles if bundle.free)

    def group(self, layer: str) -> ChannelGroup:
        """Give the group of channels that a layer makes.

        Raises:
            LayerError: there is no such layer, its channels stay (says why), or they are of
                several groups.
        """
        if layer not in self.layers:
            raise LayerError(f"no layer is called {layer!r}{near_misses(layer, self.layers)}")
        found = [group for group in self.groups if layer in group.made_by]
        if len(found) == 1:
            return found[0]
        if found:
            raise LayerError(
                f"the channels that {layer} makes are of {len(found)} groups; choose among `groups`"
            )
        held = [text for x in self.bundles if layer in x.made_by for text in short_reasons(x)]
        why = next(iter(held), "`layers` leaves out a layer that makes the same channels")
        raise LayerError(f"no channel that {layer} makes can be removed: {why}")

    def prune(
        self,
        removed: Mapping[ChannelGroup, Iterable[int]],
        *,
        copy: bool = False,
        verify: bool = True,
    ) -> Any:
        """Remove channels of several groups at once, ``{group: indices}``, with one check.

        See :meth:`ChannelGroup.prune` for what it gives and raises.
        """
        if not removed:
            raise OptionError("no group was given to remove channels of")
        network = next(iter(removed)).network
        return network.prune(removed, copy=copy, verify=verify)

    def to_json(self) -> dict[str, Any]:
        """Give the channels in their JSON schema, ``filtersurgeon.channels/1``."""
        return {
            "schema": SCHEMA,
            "architecture": self.checkpoint.architecture,
            "input_size": list(self.input_size),
            "layers": list(self.layers),
            "free_channels": self.free,
            "bundles": [_to_lists(asdict(bundle)) for bundle in self.bundles],
        }


def _to_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_lists(item) for name, item in value.items()}
    return [_to_lists(item) for item in value] if isinstance(value, tuple) else value


def channels(
    checkpoint: Checkpoint | nn.Module,
    example_inputs: Any = None,
    *,
    layers: Iterable[str] | None = None,
) -> Channels:
    """Find which channels of a network depend on each other, and which can be removed.

    The groups of the result remove channels by hand: those of a module change it in place, as in
    Torch-Pruning; those of a checkpoint give a new one.

    Args:
        checkpoint: its architecture is known, or shows in its tensors; or a module in memory.
        example_inputs: what the module is called with: a tensor, a tuple of arguments, a dict of
            arguments by name, or the size of an image.
        layers: globs; only channels that one of these layers makes or reads. A group is one of
            channels that no other layer makes.

    Raises:
        ArchitectureError: the network cannot be built.
        GraphError: its channels cannot be followed.
        LayerError: a glob matches nothing.

    Examples:
        >>> import filtersurgeon as fs
        >>> channels = fs.channels(fs.untrained("timm:test_resnet"))
        >>> image, first = channels.bundles[:2]
        >>> image.channels, image.free, image.read_by
        (3, False, ('conv1.0',))
        >>> first.channels, first.free, first.made_by, first.read_by
        (16, True, ('conv1.0',), ('conv1.3',))
        >>> pruned = channels.group("conv1.0").prune([0, 5])
        >>> pruned["conv1.0.weight"].shape, pruned["conv1.3.weight"].shape
        ((14, 3, 3, 3), (16, 14, 3, 3))
    """
    from filtersurgeon.graph.channel_groups import Cuttable
    from filtersurgeon.graph.opened_model import open_model

    module = None
    if not isinstance(checkpoint, Checkpoint):
        module = check_module(checkpoint)
        checkpoint = open_module(module, example_inputs)
    elif example_inputs is not None:
        raise OptionError("`example_inputs` are for modules in memory, not for checkpoints")
    opened = open_model(checkpoint)
    graph = opened.graph
    order = _weighted_layers(opened)
    wanted = {layer.name for layer in select_layers([_Layer(name) for name in order], layers)}
    found = ((x, _bundle(opened, x, order)) for x in graph.groups.bundles)
    pairs = [pair for pair in found if wanted & {*pair[1].made_by, *pair[1].read_by}]
    place = {name: number for number, name in enumerate(order)}
    pairs.sort(
        key=lambda pair: (
            min(place[n] for n in (*pair[1].made_by, *pair[1].read_by)), bool(pair[1].made_by)
        )
    )  # fmt: skip
    size = tuple(graph.image.shape[1:])
    groups = Cuttable(opened, module, example_inputs).open_groups(
        bundle for bundle, shown in pairs if wanted.issuperset(shown.made_by)
    )
    named = tuple(n for n in order if n in wanted)
    return Channels(checkpoint, size, named, tuple(shown for _, shown in pairs), groups)


@dataclass(frozen=True)
class _Layer:
    name: str

    @property
    def tensor(self) -> str:
        return f"{self.name}.weight"


def _weighted_layers(opened: OpenedModel) -> list[str]:
    """List the layers with a matrix of weights per channel, in the order in which they run."""
    graph = opened.graph
    names = (name for record in graph.trace.records for name in record.names if name is not None)
    found: dict[str, None] = {}
    for tensor in names:
        module, _, own = tensor.rpartition(".")
        if own == "weight" and _is_weighted(graph.network.get_submodule(module)):
            found[module] = None
        elif (bare := opened.bare_parameter(tensor)) is not None:
            found[bare.name] = None
    return list(found)


def _is_weighted(module: nn.Module) -> bool:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return isinstance(module, _ConvNd | nn.Linear)


def _bundle(opened: OpenedModel, bundle: Bundle, order: Sequence[str]) -> ChannelBundle:
    from filtersurgeon.graph.channel_groups import CARRIES, MAKES, role_of

    graph = opened.graph
    made: set[str] = set()
    read: set[str] = set()
    carried: set[str] = set()
    for tensor, axis in bundle.axes:
        layer = opened.layer_name(tensor)
        role = role_of(opened, tensor, axis)
        if layer in order and role != CARRIES:
            (made if role == MAKES else read).add(layer)
        elif layer not in order:
            carried.add(layer or tensor)
    return ChannelBundle(
        len(bundle.groups),
        not bundle.pinned,
        tuple(name for name in order if name in made),
        tuple(name for name in order if name in read | _depthwise(graph, made)),
        tuple(sorted(carried)),
        graph.causes.pins(bundle.groups) if bundle.pinned else (),
    )


def _depthwise(graph: ChannelGraph, names: set[str]) -> set[str]:
    """Find the layers that read the very channels that they make."""
    found = set()
    modules = dict(graph.network.named_modules())
    for name in names & modules.keys():
        module = modules[name]
        groups = getattr(module, "groups", 1)
        if groups > 1 and groups == getattr(module, "in_channels", 0):
            found.add(name)
    return found


def short_reasons(bundle: ChannelBundle) -> Iterator[str]:
    """Give every reason once, with one module of those that it holds for."""
    seen = set()
    for pin in bundle.pins:
        if (pin.text, pin.operator) not in seen:
            seen.add((pin.text, pin.operator))
            yield str(pin)
