"""The walk as a browser shows it: headless Chromium, with the network cut off."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from walking import PHONE, Visitor, as_input, open_chromium, torch_maps, write_image

import filtersurgeon as fs
from filtersurgeon.walk.scene import WalkSettings
from filtersurgeon.walk.walking import walk


@pytest.fixture(scope="module")
def chromium():
    yield from open_chromium()


@pytest.fixture
def visit(chromium):
    opened = []

    def open_page(path: Path, **device) -> Visitor:
        opened.append(Visitor(chromium, path, **device))
        return opened[-1]

    yield open_page
    for visitor in opened:
        visitor.finish()


# Small images keep this fast; the networks are whole.
NETWORKS = {
    "timm:resnet18": (64, ["conv1", "layer1.1.act2", "layer2.0.downsample.0", "layer4.1.conv2"]),
    "timm:densenet121": (64, ["features.conv0", "features.denseblock2.denselayer3.conv2",
                              "features.norm5"]),
    "torchvision:inception_v3": (96, ["Conv2d_1a_3x3.conv", "Mixed_5b.branch5x5_2.conv",
                                      "Mixed_7c.branch3x3_2a.conv"]),
    "timm:convnextv2_atto": (64, ["stem.0", "stages.1.blocks.0.conv_dw",
                                  "stages.3.blocks.1.mlp.fc1"]),
}  # fmt: skip


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_walk_opens_moves_and_tells_the_numbers_of_torch(architecture, visit, tmp_path):
    size, layers = NETWORKS[architecture]
    _check_walk(fs.untrained(architecture), size, layers, visit, tmp_path)


def test_a_walk_through_a_pruned_network(visit, tmp_path):
    slim = fs.prune(fs.untrained("timm:resnet18"), per_layer=True, sparsity=0.5)
    fs.save(slim, tmp_path / "slim.safetensors")
    slim = fs.load(tmp_path / "slim.safetensors")
    _check_walk(slim, 64, ["conv1", "layer3.0.conv2", "layer4.0.downsample.0"], visit, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "size"),
    [("timm:resnet50", 224), ("timm:densenet121", 224), ("torchvision:inception_v3", 299),
     ("timm:convnextv2_atto", 224)],
)  # fmt: skip
def test_a_walk_at_full_size(architecture, size, visit, tmp_path):
    layers = (
        ["conv1", "layer4.2.conv3"] if "resnet50" in architecture else NETWORKS[architecture][1]
    )
    _check_walk(fs.untrained(architecture), size, layers, visit, tmp_path)
    if "resnet50" in architecture:
        assert (tmp_path / "walk.html").stat().st_size < 25_000_000


def _check_walk(checkpoint, size, layers, visit, tmp_path):
    image = write_image(tmp_path / "a.png", size)
    settings = WalkSettings(preprocess={"input_size": [3, size, size]})
    walk(checkpoint, tmp_path / "walk.html", [str(image)], settings=settings)
    visitor = visit(tmp_path / "walk.html")
    expected = torch_maps(checkpoint, as_input(image, checkpoint), layers)
    assert _colours(visitor) > 200
    for number, layer in enumerate(layers):
        _check_layer(visitor, layer, expected[layer], seed=number)
    _check_movement(visitor)


def _check_layer(visitor, layer, maps, seed):
    """Fly there, click a channel, and compare what is shown of it."""
    rng = np.random.default_rng(seed)
    before = visitor.ask("walk.camera")
    visitor.ask("layer => walk.fly(layer)", layer)
    visitor.settle()
    assert visitor.ask("walk.camera") != before
    channel = int(rng.integers(len(maps)))
    place = visitor.ask("([layer, channel]) => walk.locate(layer, channel)", [layer, channel])
    visitor.page.mouse.click(*place)
    assert visitor.ask("walk.selection") == {"network": 0, "layer": layer, "channel": channel}
    details = visitor.page.locator("#details")
    details.locator("h2").wait_for()
    visitor.wait(
        "wanted => document.querySelector('#details input')?.value === wanted", str(channel)
    )
    assert layer in details.locator("h2").inner_text()
    own = maps[channel].astype(np.float64)
    facts = visitor.ask("([layer, channel]) => walk.facts(layer, channel)", [layer, channel])
    wanted = [own.min(), own.max(), own.mean(), own.std(), (own > 0).mean()]
    assert facts == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    if own.size == 1:  # a bar of all values, and this one
        low = high = float(details.locator("p.value").first.inner_text())
    else:
        shown = details.locator("dl").first.inner_text()
        low, high = (float(word) for word in shown.split("\n")[1].split(" to "))
    assert (low, high) == pytest.approx((own.min(), own.max()), rel=2e-3, abs=1e-4)
    half = max(abs(own.min()), abs(own.max())) / 254
    for _ in range(5):
        row, column = int(rng.integers(own.shape[0])), int(rng.integers(own.shape[1]))
        value = visitor.ask("one => walk.value(...one)", [layer, channel, row, column])
        assert value == pytest.approx(own[row, column], abs=1.001 * half + 1e-6)


_FAR = "([place, far]) => Math.hypot(...walk.camera.map((x, k) => x - place[k])) > far"
"""Tells whether the camera is further than that from a place."""


def _check_movement(visitor):
    """Keys walk, dragging looks around, the wheel goes to where it points; frames follow."""
    visitor.ask("walk.clear()")
    page = visitor.page
    before, frames = visitor.ask("walk.camera"), visitor.ask("walk.frames")
    page.keyboard.down("w")
    visitor.wait(_FAR, [before, 0.1])
    page.keyboard.up("w")
    after = visitor.ask("walk.camera")
    assert visitor.ask("walk.frames") > frames
    page.mouse.move(700, 200)
    page.mouse.wheel(0, -240)
    visitor.wait(_FAR, [after, 1])
    visitor.rest()  # nothing moves, nothing is drawn


def _colours(visitor) -> int:
    picture = Image.open(io.BytesIO(visitor.page.screenshot()))
    return len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    wide = fs.untrained("timm:resnet18")
    slim = fs.prune(wide, per_layer=True, sparsity=0.4)
    fs.save(slim, folder / "slim.safetensors")
    images = [str(write_image(folder / f"{n}.png", 64, seed=n)) for n in range(2)]
    settings = WalkSettings(
        preprocess={"input_size": [3, 64, 64]}, decode=("layer1.0.conv1",), units="0-3"
    )
    path = folder / "walk.html"
    scene = walk(wide, path, images, fs.load(folder / "slim.safetensors"), settings)
    return path, scene


def test_removed_channels_are_gaps_and_twins_stand_side_by_side(visit, pair):
    path, scene = pair
    visitor = visit(path)
    wide, slim = scene.networks
    panel = slim.panels[slim.panel("layer2.0.conv1")]
    gap = min(set(range(panel.slots[-1])) - set(panel.slots))
    visitor.ask("walk.fly('layer2.0.conv1', 1)")
    visitor.settle()
    for channel in (0, panel.shape[0] - 1):
        place = visitor.ask("c => walk.locate('layer2.0.conv1', c, 1)", channel)
        picked = visitor.ask("([x, y]) => walk.pick(x, y)", place)
        assert picked == {"network": 1, "layer": "layer2.0.conv1", "channel": channel}
    # A gap lies where the wide network has the channel: as far beside as the columns say.
    left = visitor.ask("c => walk.locate('layer2.0.conv1', c, 1)", 0)
    columns = panel.place.columns
    near = [k for k, slot in enumerate(panel.slots) if slot // columns == gap // columns]
    other = visitor.ask("c => walk.locate('layer2.0.conv1', c, 1)", near[0])
    step = _slot_width(visitor, panel)
    place = [other[0] + (gap - panel.slots[near[0]]) * step, other[1]]
    assert left != other or near[0] == 0
    assert visitor.ask("([x, y]) => walk.pick(x, y)", place)["channel"] == -1
    visitor.page.mouse.click(*place)
    assert visitor.ask("walk.selection") is None
    channel = near[0]
    visitor.page.mouse.click(*other)
    assert visitor.ask("walk.selection")["channel"] == channel
    visitor.page.locator("#details .pair canvas").first.wait_for()
    twin = visitor.ask("c => walk.facts('layer2.0.conv1', c, 0)", panel.slots[channel])
    own = visitor.ask("c => walk.facts('layer2.0.conv1', c, 1)", channel)
    expected = [seen.seen[0].maps[seen.panel("layer2.0.conv1")].facts for seen in (wide, slim)]
    assert twin == pytest.approx(expected[0][panel.slots[channel]].tolist(), rel=1e-6)
    assert own == pytest.approx(expected[1][channel].tolist(), rel=1e-6)


def test_fingers_look_around_and_go_forward(visit, pair):
    visitor = visit(pair[0], **PHONE)
    glass = visitor.page.context.new_cdp_session(visitor.page)

    def drag(*fingers):
        """Move each finger from a place, 80 steps of a pixel along an axis."""
        for step in range(0, 81, 8):
            points = [{"x": x + step * way, "y": y, "id": k}
                      for k, (x, y, way) in enumerate(fingers)]  # fmt: skip
            kind = "touchMove" if step else "touchStart"
            glass.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        glass.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    start = visitor.ask("walk.camera")
    aim = visitor.ask("walk.locate('conv1', 0, 0)")
    drag((150, 400, 1))
    visitor.wait("aim => String(walk.locate('conv1', 0, 0)) !== String(aim)", aim)
    assert visitor.ask("walk.camera") == start
    drag((150, 400, -1), (250, 400, 1))
    visitor.wait(_FAR, [start, 0.5])


def _slot_width(visitor, panel) -> float:
    """Pixels from one slot of a panel to the next, from two channels of one row."""
    columns = panel.place.columns
    rows: dict[int, list[int]] = {}
    for channel, slot in enumerate(panel.slots):
        rows.setdefault(slot // columns, []).append(channel)
    one, two = next(row for row in rows.values() if len(row) > 1)[:2]
    places = [visitor.ask("c => walk.locate('layer2.0.conv1', c, 1)", c) for c in (one, two)]
    return (places[1][0] - places[0][0]) / (panel.slots[two] - panel.slots[one])


def test_the_list_finds_layers_and_flies_there(visit, pair):
    visitor = visit(pair[0])
    page = visitor.page
    page.keyboard.press("/")
    page.keyboard.type("layer3.1 conv2")
    assert page.locator("#list .row:visible").count() == 2
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    visitor.settle()
    assert visitor.ask("walk.selection") == {"network": 1, "layer": "layer3.1.conv2", "channel": 0}
    page.keyboard.press("]")
    assert visitor.ask("walk.selection")["layer"] == "layer3.1/add"
    page.keyboard.press(".")
    assert visitor.ask("walk.selection")["channel"] == 1
    page.keyboard.press("Escape")
    assert visitor.ask("walk.selection") is None


def test_layers_are_hidden_and_images_switched(visit, pair):
    path, scene = pair
    visitor = visit(path)
    visitor.ask("walk.fly('layer1.0.conv1')")
    visitor.settle()
    place = visitor.ask("walk.locate('layer1.0.conv1', 3)")
    first = visitor.ask("walk.facts('layer1.0.conv1', 3)")
    visitor.page.mouse.click(*place)
    assert visitor.ask("walk.selection")["channel"] == 3
    visitor.page.locator("#details figcaption", has_text="Decoded").wait_for()
    visitor.page.locator("#pictures button").nth(1).click()
    network = scene.networks[0]
    wanted = network.seen[1].maps[network.panel("layer1.0.conv1")].facts[3].tolist()
    visitor.wait(
        "wanted => Math.abs(walk.facts('layer1.0.conv1', 3)[1] - wanted) < 1e-5", wanted[1]
    )
    assert visitor.ask("walk.facts('layer1.0.conv1', 3)") != first
    visitor.ask("walk.hide('layer1.0.conv1')")
    met = visitor.ask("([x, y]) => walk.pick(x, y)", place)
    assert not met or met["layer"] != "layer1.0.conv1"
    visitor.ask("walk.hide('layer1.0.conv1', false)")
    assert visitor.ask("([x, y]) => walk.pick(x, y)", place)["channel"] == 3


def test_the_panel_on_the_screen_has_the_colours_of_its_maps(visit, pair):
    """Every pixel of a map, as drawn: blue below zero, black at zero, white above."""
    path, scene = pair
    visitor = visit(path)
    layer, channel = "layer4.0.conv2", 7
    visitor.ask("layer => walk.fly(layer)", layer)
    visitor.settle()
    visitor.rest()
    network = scene.networks[0]
    maps = network.seen[0].maps[network.panel(layer)]
    values = (maps.values[channel].astype(float) - 128) / 127
    place = visitor.ask("([layer, c]) => walk.locate(layer, c)", [layer, channel])
    beside = visitor.ask("([layer, c]) => walk.locate(layer, c)", [layer, channel + 1])
    side = (beside[0] - place[0]) * 0.93  # without the gap between maps
    shot = Image.open(io.BytesIO(visitor.page.screenshot())).convert("RGB")
    count = len(values)
    for row in range(count):
        for column in range(count):
            x = place[0] + ((column + 0.5) / count - 0.5) * side
            y = place[1] + ((row + 0.5) / count - 0.5) * side
            red, _, blue = (part / 255 for part in shot.getpixel((round(x), round(y))))
            value = values[row, column]
            assert red == pytest.approx(value if value > 0 else -value / 4, abs=0.03)
            assert blue == pytest.approx(abs(value), abs=0.03)
