"""A tour as a browser shows it, from a file and with the network cut off."""

from __future__ import annotations

from itertools import pairwise

from test_walk_browser import chromium as chromium  # a fixture
from test_walk_browser import visit as visit  # a fixture
from walking import write_image

import filtersurgeon as fs

_OPEN = "document.body.classList.contains('touring')"


def test_a_tour_leads_through_a_network(visit, tmp_path):
    steps = (
        fs.TourStep("First `conv1`.\n\nSecond <b>.", "The image", view="start"),
        fs.TourStep("A map.", layer="layer1.0.conv1", channel=5, view="channel", duration=0.3),
        fs.TourStep("A layer.", layer="layer4.1.conv2"),
        fs.TourStep("Stay.", "The end"),
    )
    settings = fs.WalkSettings(
        tour=fs.Tour(steps, "A title"), preprocess={"input_size": [3, 32, 32]}
    )
    image = write_image(tmp_path / "a.png", 32)
    path = tmp_path / "w.html"
    scene = fs.walk(fs.untrained("timm:resnet18"), path, [str(image)], None, settings)
    read = fs.read_walk(path).tour
    assert [scene.tour.steps, read.steps[:2], read.title] == [steps, steps[:2], "A title"]
    assert "Second <b>" not in path.read_text("utf-8")
    visitor = visit(path)
    page = visitor.page
    box = page.locator("#tour")
    count = box.locator(".count")
    assert box.locator("h2").inner_text() == "The image"
    assert box.locator(".text p").all_inner_texts() == ["First conv1.", "Second <b>."]
    assert box.locator("code").inner_text() == "conv1"
    assert count.inner_text() == "1/4"
    assert box.get_by_text("Back").is_disabled()
    page.keyboard.press("p")
    assert count.inner_text() == "1/4"
    # Keys go on and back; a step selects its channel and moves the camera.
    before = visitor.ask("walk.camera")
    page.keyboard.press("n")
    assert count.inner_text() == "2/4"
    assert visitor.ask("walk.selection") == {
        "network": 0, "layer": "layer1.0.conv1", "channel": 5
    }  # fmt: skip
    visitor.settle()
    close = visitor.ask("walk.camera")
    assert close != before
    middle = visitor.ask("walk.locate('layer1.0.conv1', 5)")
    picked = visitor.ask("place => walk.pick(...place)", middle)
    assert picked == {"network": 0, "layer": "layer1.0.conv1", "channel": 5}
    box.get_by_text("Next").click()
    visitor.settle()
    assert count.inner_text() == "3/4"
    assert visitor.ask("walk.selection") is None
    there = visitor.ask("walk.camera")
    assert there[2] < close[2] - 5
    page.keyboard.press("n")
    visitor.settle()
    assert visitor.ask("walk.camera") == there
    assert box.get_by_text("Next").is_disabled()
    assert box.locator("progress").evaluate("bar => [bar.value, bar.max]") == [4, 4]
    # It plays by itself from the second step to the third.
    page.keyboard.press("p")
    page.keyboard.press("p")
    box.get_by_text("Play").click()
    visitor.wait("document.querySelector('#tour .count').textContent === '3/4'")
    box.get_by_text("Pause").click()
    # Closed, keys do nothing but open it again where it was.
    box.get_by_label("Close the tour").click()
    assert not visitor.ask(_OPEN)
    page.keyboard.press("p")
    page.get_by_role("button", name="Tour").click()
    assert visitor.ask(_OPEN)
    assert count.inner_text() == "3/4"
    # Letters that are typed are no keys.
    page.locator("#search").press("n")
    assert count.inner_text() == "3/4"
    page.locator("#search").press("Escape")
    page.set_viewport_size({"width": 390, "height": 844})
    page.keyboard.press("p")
    page.locator("#details h2").wait_for()
    _check_apart(visitor, ["#head", "#tour", "#details"])


def _check_apart(visitor, names):
    """Boxes lie inside the window, one below the other."""
    boxes = [visitor.page.locator(name).bounding_box() for name in names]
    for box in boxes:
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    for upper, lower in pairwise(boxes):
        assert upper["y"] + upper["height"] <= lower["y"]
