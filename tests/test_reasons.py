"""Where no channel can be cut, the cause is named: layer, operator, line of code, and remedy."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.errors import PinnedError
from filtersurgeon.graph import reasons
from filtersurgeon.graph.reasons import Pin
from tests.cutting import graph_of

SIZE = (3, 8, 8)


class Pair(nn.Module):
    """Two convolutions of the image, what is made of their outputs, and a third one after."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], width: int = 8) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, width, 1), nn.Conv2d(3, width, 1)
        self.last = nn.Conv2d(width, 2, 1)
        self.offset = torch.ones(8, 1, 1)
        self.norm = nn.LayerNorm([8, 8, 8])
        self._middle = middle

    def forward(self, image: Tensor) -> Tensor:
        scores: Tensor = self.last(self._middle(self, image))
        return scores


def line_of(code: str) -> str:
    """Give the place in this file where some code stands first."""
    lines = Path(__file__).read_text("utf-8").splitlines()
    return f"test_reasons.py:{next(n for n, line in enumerate(lines, 1) if code in line)}"


def refused(network: nn.Module, **options: Any) -> PinnedError:
    with pytest.raises(PinnedError) as caught:
        fs.prune(network, SIZE, sparsity=0.5, per_layer=True, method="l2", **options)
    assert "\n" not in str(caught.value)
    assert "kernel" not in str(caught.value)
    return caught.value


def literal(net: Any, image: Tensor) -> Tensor:
    return net.one(image).view(-1, 8, 64).view(-1, 8, 8, 8)


def indexed(net: Any, image: Tensor) -> Tensor:
    return net.one(image).gather(1, torch.zeros(1, 8, 8, 8, dtype=torch.int64))


def written(net: Any, image: Tensor) -> Tensor:
    x = net.one(image)
    made = torch.zeros_like(x)
    made[:, :, torch.tensor([0, 1])] = x[:, :, 2:4]
    return made


def sorted_(net: Any, image: Tensor) -> Tensor:
    return net.one(image).cumsum(1)


def offset(net: Any, image: Tensor) -> Tensor:
    return net.one(image) + net.offset


FORMS = [
    (literal, "view", "held in Python", "net.one(image).view(-1, 8, 64)", True),
    (indexed, "gather", "picked by indices", "net.one(image).gather(1", True),
    (written, "index_put", "picked by indices", "made[:, :, torch.tensor([0, 1])]", True),
    (sorted_, "cumsum", "reduced over in a way that zeros change", "net.one(image).cumsum(1)", 0),
    (offset, "add", reasons.CONSTANT_TENSOR, "net.one(image) + net.offset", True),
]


@pytest.mark.parametrize(("middle", "operator", "text", "code", "remedy"), FORMS)
def test_the_line_of_the_cause_is_named(middle, operator, text, code, remedy):
    error = refused(Pair(middle))
    pin = error.pins["one"][0]
    assert (pin.operator, pin.text, pin.module) == (operator, text, "")
    assert pin.line == line_of(code)
    assert pin.code.startswith(code)
    assert bool(pin.remedy) == bool(remedy)
    said = str(error)
    assert f"one keeps all channels, {text} ({operator}, {pin.line}" in said
    assert pin.remedy in said


def test_a_target_is_refused_with_the_same_reason():
    first = refused(Pair(sorted_))
    plain = str(first)
    again = pickle.loads(pickle.dumps(first))  # as jobs in other processes pass it on
    assert (str(again), again.pins) == (plain, first.pins)
    with pytest.raises(PinnedError) as caught:
        fs.prune(Pair(sorted_), SIZE, target="macs=0.5x")
    assert str(caught.value) == plain


def through_unknown(net: Any, image: Tensor) -> Tensor:
    unknown = net.one(image).renorm(2, 1, 1.0)
    return net.two(image) + functional.relu(unknown)


def test_the_cause_is_found_behind_what_the_channels_meet():
    error = refused(Pair(through_unknown))
    (pin,) = error.pins["two"]
    assert pin.operator == "renorm"
    assert pin.line == line_of("unknown = net.one(image).renorm")
    assert pin == error.pins["one"][0]
    assert "one and two keep all channels" in str(error)
    assert "other reason" not in str(error)


def with_image(net: Any, image: Tensor) -> Tensor:
    return net.one(image) + image


def padded(net: Any, image: Tensor) -> Tensor:
    wide = functional.pad(net.one(image)[:, ::2], (0, 0, 0, 0, 2, 2))
    return net.two(image) + wide


def test_what_channels_meet_is_named_where_no_operator_pins():
    error = refused(Pair(with_image, width=3))
    assert error.pins["one"][0].text == "met the network's input"
    error = refused(Pair(padded))
    assert {pin.text for pin in error.pins["two"]} >= {
        "tied to values of constant_pad_nd, which are no channels"
    }


def normalised(net: Any, image: Tensor) -> Tensor:
    return net.norm(net.one(image))


def test_inside_torchs_own_modules_the_line_is_that_of_the_call():
    error = refused(Pair(normalised))
    (pin,) = error.pins["one"]
    assert (pin.operator, pin.module, pin.remedy) == ("native_layer_norm", "norm", "")
    assert (pin.line, pin.code) == (line_of("net.norm(net.one(image))"), "net.norm(net.one(image))")


def reduced(net: Any, image: Tensor) -> Tensor:
    made = net.one(image), net.two(image)
    first, second = (x.cumsum(1) for x in made)
    return first + second + functional.softmax(made[1], 1)


def test_the_commonest_cause_comes_first_and_others_are_counted():
    error = refused(Pair(reduced))
    assert list(error.pins) == ["one", "two", "last"]
    assert "one and two keep all channels, reduced over in a way" in str(error)
    assert str(error).endswith("; 1 other reason: fsurgeon inspect --channels shows all")
    assert [pin.operator for pin in error.pins["one"]] == ["cumsum"]
    assert [pin.operator for pin in error.pins["two"]] == ["cumsum", "_softmax"]
    assert error.pins["two"][1].code == "functional.softmax(made[1], 1)"


def test_lines_are_found_later_for_what_trials_have_taught():
    graph = graph_of(Pair(sorted_), *SIZE)
    pins = list(graph.groups.constraints.pins)
    (labels, noted) = next((ids, reason) for ids, reason in pins if reason.operator == "cumsum")
    for number in (-1, noted.number):
        taught = replace(noted, text=reasons.HELD, line=None, number=number)
        graph.groups.constraints.pins[:] = [(labels, taught), *pins]
        causes = reasons.Causes(graph.trace, graph.groups, graph.find_lines)
        held, first = causes.pins(graph.groups.members(labels))
        assert held == replace(first, text=reasons.UNFOLLOWED)
    assert first.line == line_of("net.one(image).cumsum(1)")


def test_a_selection_of_pinned_layers_asks_for_others():
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1))
    error = refused(network, layers=["1"])
    assert list(error.pins) == ["1"]
    assert str(error).endswith(
        "no channel can be cut: 1 keeps all channels, leaves the network (output); "
        "select others, `layers` leaves them out"
    )


def test_a_library_is_named_where_the_network_is_its_own():
    found = fs.channels(fs.untrained("timm:test_vit"))
    lines = {pin.line.partition(":")[0] for b in found.bundles for pin in b.pins if pin.line}
    assert "norm.py" in lines
    assert not lines & {"normalization.py", "module.py", "tracer.py", "test_reasons.py"}


def test_reasons_are_in_the_json_of_channels():
    document = fs.channels(Pair(literal), example_inputs=SIZE).to_json()
    pins = [pin for bundle in document["bundles"] for pin in bundle["pins"]]
    held = next(pin for pin in pins if pin["operator"] == "view")
    assert json.loads(json.dumps(held)) == {
        "text": "held in Python",
        "operator": "view",
        "module": "",
        "line": line_of("net.one(image).view(-1, 8, 64)"),
        "code": "net.one(image).view(-1, 8, 64)",
        "remedy": reasons.REMEDIES["held in Python"],
    }


def test_remedies_are_for_reasons_that_rules_give():
    folder = Path(reasons.__file__).parent
    texts = "".join(path.read_text("utf-8") for path in folder.rglob("*.py"))
    for text in reasons.REMEDIES:
        assert texts.count(f'"{text}"') >= 2 or text in (
            reasons.HELD,
            reasons.CONSTANT_TENSOR,
        ), text


def test_a_pin_reads_as_a_sentence_with_its_place():
    assert str(Pin("cut", "slice", "stem", "nets.py:3")) == "cut (slice in stem, nets.py:3)"
    assert str(Pin("cut", "slice", "")) == "cut (slice)"
    assert str(Pin("made by stem", "", "stem")) == "made by stem"
