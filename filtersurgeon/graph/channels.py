"""The channels of a network: which go together, which can be removed, and which never."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.filters import select_layers
from filtersurgeon.graph.reasons import Pin
from filtersurgeon.networks.opened_module import analyses_modules

if TYPE_CHECKING:
    from torch import nn

    from filtersurgeon.graph.graph import ChannelGraph
    from filtersurgeon.graph.groups import Bundle

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
class Channels:
    """The channels of a checkpoint's network.

    Attributes:
        checkpoint: what was looked at.
        input_size: channels, height and width of the image that was followed.
        layers: convolutions and linear layers, in the order of the run.
        bundles: their channels, in the order of the run.
    """

    checkpoint: Checkpoint
    input_size: tuple[int, ...]
    layers: tuple[str, ...]
    bundles: tuple[ChannelBundle, ...]

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

    @property
    def free(self) -> int:
        """How many channels may be removed."""
        return sum(bundle.channels for bundle in self.bundles if bundle.free)

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


@analyses_modules
def channels(checkpoint: Checkpoint, *, layers: Iterable[str] | None = None) -> Channels:
    """Follow the channels of a network.

    Args:
        checkpoint: its architecture is known, or shows in its tensors.
        layers: globs; only channels that one of these layers makes or reads.

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
    """
    from filtersurgeon.graph.opened_model import open_model

    graph = open_model(checkpoint).graph
    order = _weighted_layers(graph)
    wanted = {layer.name for layer in select_layers([_Layer(name) for name in order], layers)}
    found = (_bundle(graph, bundle, order) for bundle in graph.groups.bundles)
    bundles = [bundle for bundle in found if wanted & {*bundle.made_by, *bundle.read_by}]
    place = {name: number for number, name in enumerate(order)}
    bundles.sort(key=lambda b: (min(place[n] for n in (*b.made_by, *b.read_by)), bool(b.made_by)))
    size = tuple(graph.image.shape[1:])
    return Channels(checkpoint, size, tuple(n for n in order if n in wanted), tuple(bundles))


@dataclass(frozen=True)
class _Layer:
    name: str

    @property
    def tensor(self) -> str:
        return f"{self.name}.weight"


def _weighted_layers(graph: ChannelGraph) -> list[str]:
    """List the modules with a matrix of weights per channel, in the order in which they run."""
    names = (name for record in graph.trace.records for name in record.names if name is not None)
    modules = (name.rpartition(".") for name in names)
    return list(
        dict.fromkeys(
            module
            for module, _, tensor in modules
            if tensor == "weight" and _is_weighted(graph.network.get_submodule(module))
        )
    )


def _is_weighted(module: nn.Module) -> bool:
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    return isinstance(module, _ConvNd | nn.Linear)


def _bundle(graph: ChannelGraph, bundle: Bundle, order: Sequence[str]) -> ChannelBundle:
    made: set[str] = set()
    read: set[str] = set()
    carried: set[str] = set()
    for name, axis in bundle.axes:
        module, _, tensor = name.rpartition(".")
        if module in order and tensor == "weight":
            if axis < 2:
                outputs = _output_axis(graph.network.get_submodule(module))
                (made if axis == outputs else read).add(module)
        elif module not in order:
            carried.add(module or name)
    return ChannelBundle(
        len(bundle.groups),
        not bundle.pinned,
        tuple(name for name in order if name in made),
        tuple(name for name in order if name in read | _depthwise(graph, made)),
        tuple(sorted(carried)),
        graph.causes.pins(bundle.groups) if bundle.pinned else (),
    )


def _output_axis(module: nn.Module) -> int:
    return 1 if getattr(module, "transposed", False) else 0


def _depthwise(graph: ChannelGraph, names: Iterable[str]) -> set[str]:
    """Find the layers that read the very channels that they make."""
    found = set()
    for name in names:
        module = graph.network.get_submodule(name)
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
