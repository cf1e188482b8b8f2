"""Tours: what a file may hold, what is refused and where, and the record in the page."""

from __future__ import annotations

import pytest

import filtersurgeon as fs
from filtersurgeon.checkpoint.documents import find_lines
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.walk.layout import Place, Step
from filtersurgeon.walk.scene import NetworkScene, Panel
from filtersurgeon.walk.tour_record import check_places, read_record, tour_record

GOOD = """\
title: Two steps
steps:
  - text: |-
      First `paragraph`.

      Second.
    view: start
  - title: A layer
    text: Some text.
    layer: conv1
    channel: 3
    view: channel
    duration: 2.5
"""


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        path = tmp_path / "tour.yaml"
        path.write_text(text, "utf-8")
        return fs.read_tour(path)

    return read_text


def test_a_tour_is_read(read):
    tour = read(GOOD)
    assert tour == fs.Tour(
        (
            fs.TourStep("First `paragraph`.\n\nSecond.", view="start"),
            fs.TourStep("Some text.", "A layer", "conv1", 3, 1, "channel", 2.5),
        ),
        "Two steps",
    )
    assert [step.line for step in tour.steps] == [3, 8]
    assert len(repr(tour).splitlines()) <= 5


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("channel: 3", "chanel: 3", 11, "step 2 has no key 'chanel'; did you mean channel?"),
        ("title: Two", "titel: Two", 1, "a tour has no key 'titel'; did you mean title?"),
        ("text: Some text.", "layer: conv2", 8, "step 2 needs a text"),
        ("view: start", "view: begin", 7, "view 'begin' is unknown; known: channel, layer"),
        ("    layer: conv1\n", "", 10, "step 2 names a channel, but no layer"),
        ("    channel: 3\n", "", 11, "step 2: view channel needs a channel"),
        ("channel: 3", "channel: -3", 11, "channel should be a whole number from 0"),
        ("channel: 3", "channel: three", 11, "channel should be a whole number from 0"),
        ("channel: 3", "channel: true", 11, "channel should be a whole number from 0"),
        ("duration: 2.5", "duration: .inf", 13, "duration should be 0 to 3600 seconds"),
        ("duration: 2.5", "duration: .nan", 13, "duration should be 0 to 3600 seconds"),
        ("duration: 2.5", "duration: soon", 13, "duration should be a number of seconds"),
        ("duration: 2.5", "network: 0", 13, "network should be a whole number from 1"),
        ("Some text.", "12", 9, "text should be text; put it in quotes"),
        ("Some text.", "x" * 4001, 9, "text may have 4,000 characters"),
        ("view: start\n", "view: start\n  - just words\n", 8, "step 2 should read {text: ..."),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(old, new, line, words, read):
    assert old in GOOD
    with pytest.raises(OptionError) as problem:
        read(GOOD.replace(old, new))
    text = str(problem.value)
    assert f"tour.yaml, line {line}: {words}" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("steps: []", "should contain a list called steps"),
        ("- text: x", "should contain a list called steps"),
        ("", "should contain a list called steps"),
        ("steps:\n  - text: [", "cannot read tour"),
        ("steps: !!python/object:os.system [x]", "line 1"),
        ("steps: [" + "{text: x}, " * 201 + "]", "line 1: a tour may have 200 steps, not 201"),
    ],
)
def test_what_is_no_tour_is_refused(content, words, read):
    with pytest.raises(OptionError, match=words.replace("[", r"\[")):
        read(content)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(OptionError, match="no such file"):
        fs.read_tour(tmp_path / "none.yaml")
    (tmp_path / "image.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(OptionError, match="not a text file"):
        fs.read_tour(tmp_path / "image.yaml")


def test_lines_are_those_of_the_values():
    lines = find_lines("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n")
    assert lines == {
        (): 1, ("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4, ("b", 1, "d"): 5
    }  # fmt: skip
    assert find_lines("") == {}


def _network(*names):
    place = Place(0, 0.0, 0.0, 1.0, 1.0, 1)
    panels = tuple(Panel(Step(x, x, "conv", "", ()), (8, 4, 4), place, "") for x in names)
    return NetworkScene("net", None, panels, (), ())


def test_layers_that_are_not_there_are_refused_with_near_misses(read):
    tour = read(GOOD)
    check_places(tour, [_network("conv1", "conv2")])
    with pytest.raises(LayerError, match=r"^tour.yaml, line 8: step 2: net has no layer 'conv1'; "
                                         r"did you mean conv12 or conv11\?$"):  # fmt: skip
        check_places(tour, [_network("conv11", "conv12", "fc")])
    more = read(GOOD.replace("channel: 3", "channel: 8"))
    with pytest.raises(LayerError, match="layer conv1 has no channel 8; its 8 channels are 0 to 7"):
        check_places(more, [_network("conv1")])
    second = read(GOOD.replace("channel: 3", "channel: 3\n    network: 2"))
    check_places(second, [_network("x"), _network("conv1")])
    with pytest.raises(OptionError, match="goes to network 2, and the walk shows 1"):
        check_places(second, [_network("conv1")])


def test_the_record_comes_back(read):
    networks = [_network("conv0", "conv1")]
    tour = read(GOOD)
    record = tour_record(tour, networks)
    assert record["steps"][1]["panel"] == 1
    assert record["steps"][0]["panel"] is None
    assert read_record(record, networks) == tour


@pytest.mark.slow
def test_the_tour_of_the_examples_fits_its_network():
    import torch
    from workshop import ROOT

    from filtersurgeon.learn.networks import open_network
    from filtersurgeon.walk.prepared_network import prepare

    checkpoint = fs.untrained("timm:tf_efficientnet_lite0")
    prepared = prepare(open_network(checkpoint), torch.zeros(3, 32, 32), "cpu")
    panels = tuple(
        Panel(step, shape, Place(0, 0.0, 0.0, 1.0, 1.0, 1), "")
        for step, shape in zip(prepared.panel_steps, prepared.panel_shapes, strict=True)
    )
    tour = fs.read_tour(ROOT / "examples" / "tour_lite0.yaml")
    check_places(tour, [NetworkScene("lite0", None, panels, (), ())])
    told = " ".join(step.text for step in tour.steps)
    for word in ("convolution", "depthwise", "stride", "ooling", "oftmax"):
        assert word in told
