"""What a walk teaches, in the browser: names, values, histograms, lines, and the overview."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from walking import PHONE, Visitor, open_chromium, write_image

import filtersurgeon as fs
from filtersurgeon.walk.scene import WalkSettings
from filtersurgeon.walk.walking import walk


class Lesson(nn.Module):
    """A small network with one of every layer whose values a page computes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
        self.grouped = nn.Conv2d(8, 16, 3, padding=2, dilation=2, groups=2)
        self.mean = nn.AvgPool2d(3, 2, 1, ceil_mode=True)
        self.wide = nn.Conv2d(16, 16, 1)
        self.small = nn.AdaptiveAvgPool2d(3)
        self.flat = nn.Linear(144, 20)
        self.gelu = nn.GELU()
        self.head = nn.Linear(20, 6)

    def forward(self, x):
        x = self.pool(self.act(self.norm(self.conv(x))))
        x = x + self.depthwise(x)
        x = self.mean(self.grouped(x))
        x = functional.max_pool2d(functional.relu6(self.wide(x)), 2, stride=1)
        return self.head(self.gelu(self.flat(self.small(x).flatten(1))))


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lesson")
    torch.manual_seed(0)
    network = Lesson().eval()
    with torch.no_grad():
        for values in (network.norm.weight, network.norm.bias, network.norm.running_mean):
            values.normal_()
        network.norm.running_var.uniform_(0.5, 2)
    image = write_image(folder / "a.png", 26)
    settings = WalkSettings(
        preprocess={"input_size": [3, 26, 26], "mean": [0.5] * 3, "std": [0.25] * 3}
    )
    scene = fs.walk(
        network, folder / "walk.html", [str(image)], settings=settings,
        example_inputs=torch.zeros(1, 3, 26, 26),
    )  # fmt: skip
    return network, scene.networks[0], folder / "walk.html"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    checkpoint = fs.untrained("timm:resnet18")
    image = write_image(folder / "a.png", 64)
    settings = WalkSettings(preprocess={"input_size": [3, 64, 64]})
    scene = walk(checkpoint, folder / "walk.html", [str(image)], settings=settings)
    return scene, folder / "walk.html"


@pytest.fixture(scope="module")
def chromium():
    yield from open_chromium()


@pytest.fixture(scope="module")
def desk(chromium, resnet):
    visitor = Visitor(chromium, resnet[1], reduced_motion="reduce")
    yield visitor
    visitor.finish()


@pytest.fixture(scope="module")
def small(chromium, lesson):
    visitor = Visitor(chromium, lesson[2], reduced_motion="reduce")
    yield visitor
    visitor.finish()


@pytest.fixture(scope="module")
def phone(chromium, resnet):
    visitor = Visitor(chromium, resnet[1], **PHONE, reduced_motion="reduce")
    yield visitor
    visitor.finish()


def _details(visitor, text):
    """Wait until the details hold a text, and give all of them."""
    visitor.wait("text => document.getElementById('details').textContent.includes(text)", text)
    return visitor.page.locator("#details").inner_text()


COMPUTED = ["conv", "act", "pool", "depthwise", "/add", "grouped", "mean", "wide", "/relu6",
            "/max_pool2d", "small", "flat", "head"]  # fmt: skip


def test_every_value_that_can_be_computed_again_equals_that_of_the_map(small, lesson):
    _, scene, _ = lesson
    rng = np.random.default_rng(0)
    assert [panel.step.name for panel in scene.panels] == ["input", *COMPUTED[:-1], "gelu", "head"]
    for layer in COMPUTED:
        channels, height, width = scene.panels[scene.panel(layer)].shape
        corners = [(0, 0, 0), (channels - 1, height - 1, width - 1)]
        anywhere = tuple(int(rng.integers(n)) for n in (channels, height, width))
        for channel, row, column in [*corners, anywhere]:
            found = small.ask("one => walk.explain(...one)", [layer, channel, row, column])
            assert found["text"].startswith("Equal"), (layer, channel, row, column, found["text"])
            value = scene.maps(layer)[channel, row, column]
            assert found["value"] == pytest.approx(float(value), rel=1e-5, abs=1e-6)
            # What rounding allows is small beside the values of the layer.
            assert found["slack"] < 0.2 * np.abs(scene.maps(layer)).max()


def test_patches_kernels_and_sums_are_those_of_torch(small, lesson):
    network, scene, _ = lesson
    row, column, channel = 3, 12, 5
    found = small.ask("one => walk.explain(...one)", ["depthwise", channel, row, column])
    (term,) = found["terms"]
    padded = np.pad(scene.maps("pool")[channel], 2)
    patch = padded[row : row + 5, column : column + 5]
    kernel = network.depthwise.weight[channel, 0].detach().numpy()
    assert found["corner"] == [row - 2, column - 2]
    assert term["patch"] == pytest.approx(patch.reshape(-1).tolist(), abs=1e-5)
    half = float(np.abs(kernel).max()) / 254
    assert term["kernel"] == pytest.approx(kernel.reshape(-1).tolist(), abs=1.01 * half)
    assert term["sum"] == pytest.approx(float((patch * kernel).sum()), abs=found["slack"])
    flat = small.ask("walk.explain('flat', 4, 0, 0)")
    assert len(flat["terms"]) == 16
    assert flat["bias"] == pytest.approx(float(network.flat.bias.detach()[4]), rel=1e-5)
    why = small.ask("walk.explain('gelu', 4, 0, 0)")["text"]
    assert why.endswith("not GELU.")
    assert "image" in small.ask("walk.explain('input', 0, 0, 0)")["text"]


def test_a_wide_layer_shows_its_strongest_kernels_and_says_so(desk):
    found = desk.ask("walk.explain('layer4.0.conv2', 3, 1, 0)")
    assert "holds 12 of 512 kernels" in found["text"]
    assert found["result"] is None
    added = sum(term["sum"] for term in found["terms"]) + found["rest"]["sum"]
    assert added == pytest.approx(found["value"], rel=1e-5)
    assert found["rest"]["kernels"] == 500


def test_a_click_on_a_pixel_shows_how_its_value_is_made(small, lesson):
    small.ask("walk.select('grouped', 9, 0)")
    assert "Click a pixel" in _details(small, "Click a pixel")
    canvas = small.page.locator("#details .map canvas")
    box = canvas.bounding_box()
    _, rows, columns = lesson[1].panels[lesson[1].panel("grouped")].shape
    x, y = box["width"] * 3.5 / columns, box["height"] * 6.5 / rows
    canvas.click(position={"x": x, "y": y})
    text = _details(small, "How this value is made")
    assert "Row 6, column 3" in text
    assert "Each of 4 patches of 3\u00d73 values" in text
    assert "Equal to the value in the map" in text
    # It stays while other channels of the layer are looked at, and its patches lead further.
    small.ask("walk.select('grouped', 10, 0)")
    assert "Row 6, column 3" in _details(small, "Row 6, column 3")
    small.page.locator("#details .terms button").first.click()
    selection = small.ask("walk.selection")
    assert selection["layer"] == "/add"
    assert selection["channel"] >= 4


def _feeders(visitor, layer, channel, pixel=None):
    visitor.ask("one => walk.select(...one)", [layer, channel, 0, pixel])
    visitor.wait("walk.feeders.length > 0")
    return visitor.ask("walk.feeders")


def test_lines_lead_from_the_channels_that_feed_a_channel(small, lesson):
    network, scene, _ = lesson
    small.ask("walk.clear()")
    norms = network.wide.weight[3, :, 0, 0].abs().detach().numpy()
    found = _feeders(small, "wide", 3)
    assert [one["channel"] for one in found] == np.argsort(-norms)[:12].tolist()
    assert {one["layer"] for one in found} == {"mean"}
    assert found[1]["strength"] == pytest.approx(np.sort(norms)[-2] / norms.max(), abs=0.02)
    # With a pixel, by what each of them adds to its value.
    added = np.abs(scene.maps("mean")[:, 2, 4]) * norms
    small.ask("walk.clear()")
    found = _feeders(small, "wide", 3, [2, 4])
    assert found[0]["channel"] == int(added.argmax())
    small.ask("walk.clear()")
    assert [one["layer"] for one in _feeders(small, "/add", 2)] == ["pool", "depthwise"]
    small.ask("walk.clear()")
    assert small.ask("walk.feeders") == []


def test_histograms_count_the_values_of_a_layer(small, lesson):
    network, scene, _ = lesson
    found = small.ask("walk.histogram('flat', 'weights')")
    values = network.flat.weight.detach().numpy()
    most = np.abs(values).max()
    expected, _ = np.histogram(values, len(found["counts"]), (-most, most))
    assert found["counts"] == expected.tolist()
    assert found["high"] == pytest.approx(float(most))
    found = small.ask("walk.histogram('act', 'activations')")
    maps = scene.maps("act")
    assert found["total"] == maps.size
    assert found["zeros"] == (maps == 0).sum()
    edges = np.linspace(found["low"], found["high"], len(found["counts"]) + 1)
    counted, _ = np.histogram(maps[maps != 0], edges)
    # A value on the edge of two bins may be in either.
    assert np.abs(np.cumsum(found["counts"]) - np.cumsum(counted)).max() < 0.01 * maps.size
    small.ask("walk.select('flat', 0)")
    text = _details(small, "Weights of the layer")
    assert "Activations of the layer" in text
    assert "2,880 weights" in text


def test_classes_have_names_and_scores_become_probabilities(desk, resnet):
    network = resnet[0].networks[0]
    assert desk.ask("walk.className('fc', 208)") == "Labrador retriever"
    assert desk.ask("walk.className('global_pool', 208)") is None
    desk.ask("walk.select('fc', 208)")
    text = _details(desk, "From scores to probabilities")
    assert "Labrador retriever" in text
    scores = torch.from_numpy(network.maps("fc").reshape(-1).copy())
    shares = scores.softmax(0)
    found = desk.ask("walk.softmax()")
    assert [one["channel"] for one in found[:5]] == shares.topk(5).indices.tolist()
    assert sum(one["share"] for one in found) == pytest.approx(1)
    for guess, one in zip(network.seen[0].guesses, found, strict=False):
        assert (one["name"], one["share"]) == (guess.label, pytest.approx(guess.share, rel=1e-4))
        assert guess.label in text
    # The chosen class has a row of its own, and another is chosen by its name.
    assert desk.page.locator("#details .softmax tr").count() == 7
    desk.page.locator("#details .softmax button").first.click()
    assert desk.ask("walk.selection.channel") == found[0]["channel"]
    desk.ask("walk.clear()")


def test_the_search_finds_names_before_sizes_and_classes(desk):
    page = desk.page
    page.keyboard.press("/")
    page.keyboard.type("4")
    names = page.locator("#list .row:visible b").all_inner_texts()
    named = [name for name in names if "4" in name]
    assert names[: len(named)] == named
    assert named[0] == "layer4.0.conv1"
    assert "conv1" in names[len(named) :]
    page.keyboard.press("Enter")
    assert desk.ask("walk.selection.layer") == "layer4.0.conv1"
    page.keyboard.press("/")
    page.keyboard.type("labrador")
    page.keyboard.press("Enter")
    assert desk.ask("walk.selection") == {"network": 0, "layer": "fc", "channel": 208}
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    assert page.locator("#list .row:visible").count() == len(desk.ask("walk.layers[0]"))
    desk.ask("walk.clear()")


def test_escape_closes_the_help(desk):
    desk.ask("walk.select('fc', 3)")
    desk.page.keyboard.press("?")
    assert desk.page.locator("#help").is_visible()
    desk.page.keyboard.press("Escape")
    assert not desk.page.locator("#help").is_visible()
    assert desk.ask("walk.selection.channel") == 3
    desk.page.keyboard.press("Escape")
    assert desk.ask("walk.selection") is None


def test_the_strip_shows_the_network_and_leads_through_it(desk):
    page = desk.page
    arrow = "getComputedStyle(document.querySelector('#map i')).transform"
    desk.ask("walk.jump('conv1')")
    assert desk.ask("walk.onMap('conv1')[0] < walk.onMap('fc')[0]")
    before = desk.ask(arrow)
    page.mouse.click(*desk.ask("walk.onMap('layer3.0.conv2')"))
    assert desk.ask("walk.selection.layer") == "layer3.0.conv2"
    desk.settle()
    desk.wait(f"before => {arrow} !== before", before)
    # The arrow is as far along the strip as the camera is along the network.
    desk.wait(
        "() => { const at = document.querySelector('#map i').getBoundingClientRect();"
        "return Math.abs(at.x + at.width / 2 - walk.onMap('layer3.0.conv2')[0]) < 30 }"
    )
    page.locator("#map select").select_option(label="fc")
    assert desk.ask("walk.selection.layer") == "fc"
    page.locator("#map select").focus()
    page.keyboard.press("ArrowDown")  # chooses from the list, and does not walk
    assert desk.ask("walk.selection.layer") == "input"
    desk.settle()
    desk.ask("walk.clear()")


def test_the_name_of_a_tall_panel_stands_below_the_strip(desk):
    size = desk.page.viewport_size
    desk.page.set_viewport_size({"width": 1400, "height": 600})
    desk.ask("walk.jump('layer1.0.conv1')")
    strip, bar = (desk.page.locator(name).bounding_box() for name in ("#map", "#bar"))
    first, last = (desk.ask("c => walk.locate('layer1.0.conv1', c)[1]", c) for c in (0, 63))
    desk.page.set_viewport_size(size)
    # From the middle of the first row to the top of the name is a third of the way to the last.
    assert first - (last - first) / 3 > strip["y"] + strip["height"]
    assert last < bar["y"]


def _shot(visitor):
    return Image.open(io.BytesIO(visitor.page.screenshot())).convert("RGB")


def test_maps_of_one_pixel_share_the_scale_of_their_layer(desk, resnet):
    network = resnet[0].networks[0]
    values = network.maps("fc").reshape(-1)
    desk.ask("walk.jump('fc')")
    desk.rest()
    channels = [int(np.abs(values - share * values.max()).argmin()) for share in (1, 0.6, 0.2)]
    places = [desk.ask("c => walk.locate('fc', c)", c) for c in channels]

    def brightness():
        shot = _shot(desk)
        return [shot.getpixel((round(x), round(y)))[0] / 255 for x, y in places]

    wanted = values[channels] / np.abs(values).max()
    assert brightness() == pytest.approx(wanted.tolist(), abs=0.03)
    desk.page.locator("#tools button", has_text="Channel").click()
    desk.rest()
    assert brightness() == [1, 1, 1]
    desk.page.locator("#tools button", has_text="Auto").click()


def test_the_input_has_the_colours_of_the_image(desk, resnet):
    pixels = resnet[0].pictures[0].pixels
    desk.ask("walk.select('input', 1)")
    _details(desk, "The image as the network sees it")
    drawn = desk.ask(
        "() => { const c = document.querySelector('#details .photo canvas');"
        "return Array.from(c.getContext('2d').getImageData(40, 20, 1, 1).data) }"
    )
    assert drawn[:3] == pixels[20, 40].tolist()
    desk.ask("walk.clear()")
    desk.ask("walk.jump('input')")
    desk.rest()
    shot = _shot(desk)
    for part in range(3):
        x, y = desk.ask("c => walk.locate('input', c)", part)
        painted = shot.getpixel((round(x), round(y)))
        light = pixels[30:35, 30:35, part]
        assert light.min() - 4 <= painted[part] <= light.max() + 4
        assert painted[part] == max(painted)


def test_the_start_fits_a_phone_and_the_details_clear_the_bar(phone):
    page = phone.page
    boxes = {name: page.locator(f"#{name}").bounding_box() for name in ("head", "map", "bar")}
    for box in boxes.values():
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    assert boxes["map"]["y"] >= boxes["head"]["y"] + boxes["head"]["height"]
    left, top, right, bottom = phone.ask("walk.entrance()")
    assert left >= 0
    assert right <= 390
    assert boxes["map"]["y"] + boxes["map"]["height"] <= top
    assert bottom <= boxes["bar"]["y"]
    x, y = phone.ask("walk.locate('conv1', 31)")
    assert 0 < x < 390
    assert 0 < y < boxes["bar"]["y"]
    phone.ask("walk.select('layer2.0.conv1', 5)")
    phone.ask("walk.jump('layer2.0.conv1')")
    _details(phone, "Weights of the layer")
    sheet = page.locator("#details").bounding_box()
    assert sheet["y"] + sheet["height"] <= page.locator("#bar").bounding_box()["y"]
    assert sheet["height"] > 200
    # Every channel of the layer is seen above the sheet.
    for channel in (0, 127):
        x, y = phone.ask("c => walk.locate('layer2.0.conv1', c)", channel)
        assert 0 < x < 390
        assert boxes["map"]["y"] + boxes["map"]["height"] < y < sheet["y"]
    page.locator("#menu .narrow").tap()
    listed = page.locator("#layers").bounding_box()
    assert listed["y"] >= boxes["head"]["y"] + boxes["head"]["height"]
    assert listed["y"] + listed["height"] <= 844
