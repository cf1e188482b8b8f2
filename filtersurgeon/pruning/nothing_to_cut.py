"""What an error says where no channel can be cut: by layer, the cause, its line, and the remedy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from filtersurgeon.errors import PinnedError
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.reasons import Pin
from filtersurgeon.graph.weights import WeightLayer

_ONE = Pin("it is the only output channel", "", "")
_UNSEEN = Pin(
    "the network does not call the layer itself, so its channels are not followed", "", ""
)
_SHOW = "fsurgeon inspect --channels shows all"
_LINE = 160 - len("error: ")
_LEAST = 16
"""Characters of a line of code that tell something."""

Cause = tuple[str, str, str]
"""Text, operator and line of a pin, which several layers may share."""


def nothing_to_cut(
    opened: OpenedModel, layers: Sequence[WeightLayer], others: str = ""
) -> PinnedError:
    """Give the error that names what keeps the output channels of layers.

    Args:
        opened: the network.
        layers: all of whose output channels are pinned.
        others: what to say of other layers, whose channels are not.
    """
    text, pins = what_keeps_all(opened, layers, others)
    return PinnedError(f"{_head(opened)}{text}", pins)


def _head(opened: OpenedModel) -> str:
    return f"{opened.checkpoint.name}: no channel can be cut: "


def what_keeps_all(
    opened: OpenedModel, layers: Sequence[WeightLayer], others: str = ""
) -> tuple[str, dict[str, tuple[Pin, ...]]]:
    """Say what keeps the output channels of layers, as short as the error needs it.

    Args:
        opened: the network.
        layers: all of whose output channels are pinned.
        others: what to say of other layers, whose channels are not.

    Returns:
        The words, and the pins of every layer.
    """
    pins = {layer.name: _pins(opened, layer) for layer in layers}
    if not pins:
        return "no layer of the network makes channels that can be followed", pins
    cause, held = _commonest(pins)
    pin = next(pin for pin in pins[held[0]] if _cause(pin) == cause)
    begin = f"{_who(held)} all channels, {pin.text}"
    causes = {
        _cause(pin) for each in pins.values() for pin in each if pin.operator not in ("", "output")
    }
    end = (pin.remedy and f"; {pin.remedy}") + others
    if count := len(causes - {cause}):
        end += f"; {count} other reason{'s' if count > 1 else ''}: {_SHOW}"
    room = _LINE - len(_head(opened)) - len(begin) - len(end)
    return begin + _place(pin, room) + end, pins


def _who(held: Sequence[str]) -> str:
    first = held[0] or "the network"
    if len(held) < 3:
        return f"{first} and {held[1]} keep" if held[1:] else f"{first} keeps"
    return f"{first} and {len(held) - 1} more layers keep"


def _pins(opened: OpenedModel, layer: WeightLayer) -> tuple[Pin, ...]:
    if layer.out_channels is None:
        weight = opened.network.get_parameter(layer.tensor)
        outputs = weight.shape[1] * layer.groups if layer.transposed else weight.shape[0]
        return (_ONE if outputs == 1 else _UNSEEN,)
    graph = opened.graph
    return graph.causes.pins(graph.groups.members(layer.out_channels))


def _commonest(pins: Mapping[str, Sequence[Pin]]) -> tuple[Cause, list[str]]:
    """Give the cause that keeps most layers, and these; the first one in the run of several."""
    counts = Counter(cause for each in pins.values() for cause in dict.fromkeys(map(_cause, each)))
    # That the outputs of a network keep their channels is no news where there is another cause.
    found = max(counts, key=lambda cause: (counts[cause], cause[1] != "output"))
    return found, [name for name, each in pins.items() if found in map(_cause, each)]


def _cause(pin: Pin) -> Cause:
    return pin.text, pin.operator, pin.line


def _place(pin: Pin, room: int) -> str:
    """Give operator, module and line, and of the line of code as much as there is room for."""
    if not pin.operator:
        return ""
    room -= len(f" ({pin.place}: )")
    code = pin.code
    if len(code) > room:
        code = f"{code[: room - 4].rstrip()} ..." if room >= _LEAST else ""
    return f" ({pin.place}{code and f': {code}'})"
