"""The atlas of kernels: assignments against brute force, shares of a draw, page and tables."""

import csv
import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file
from walking import open_chromium

import filtersurgeon as fs
from filtersurgeon.banks.scale_space import ORDERS
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.see.atlas import _shares


@pytest.fixture
def networks(tmp_path):
    """Two networks: kernels of 3x3, 5x5 and 1x3, one of them constant."""
    generator = np.random.default_rng(1)
    first = {
        "stem.weight": generator.standard_normal((6, 3, 3, 3)),
        "b.weight": generator.standard_normal((20, 1, 5, 5)),
        "a.weight": generator.standard_normal((20, 1, 3, 3)),
        "point.weight": generator.standard_normal((20, 20, 1, 1)),
    }
    first["a.weight"][3] = 0.7
    second = {"conv.weight": generator.standard_normal((40, 5, 1, 3)),
              "<i>.weight": generator.standard_normal((10, 5, 3, 3))}  # fmt: skip
    paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    for path, tensors in zip(paths, (first, second), strict=True):
        save_file({name: values.astype(np.float32) for name, values in tensors.items()}, path)
    return paths


def _load(paths):
    return [fs.load(path) for path in paths]


def test_every_kernel_has_the_member_of_the_greatest_cosine(networks):
    found = fs.map_kernels(_load(networks), method=None)
    assert [(x.network, x.name, len(x)) for x in found.layers] == [
        (0, "stem", 18), (0, "a", 20), (0, "b", 20), (1, "<i>", 50), (1, "conv", 200)
    ]  # fmt: skip
    assert [x.depth for x in found.layers] == [0, 0.5, 1, 0, 1]
    layer = found.layers[2]
    bank = fs.load_bank("dog8").at((5, 5)).kernels.reshape(8, -1)
    kernels = fs.load(networks[0])["b.weight"].array().reshape(20, 25).astype(np.float64)
    correlations = np.corrcoef(kernels, bank)[:20, 20:]
    np.testing.assert_array_equal(layer.member, np.abs(correlations).argmax(axis=1))
    np.testing.assert_allclose(layer.cosine, np.abs(correlations).max(axis=1), rtol=1e-6)


def test_what_has_no_member_or_fit_says_so(networks):
    found = fs.map_kernels(_load(networks), method=None)
    stem, a, _, _, conv = found.layers
    assert (a.member[3], a.order[3]) == (-1, -1)
    assert np.isnan([a.cosine[3], a.residual[3]]).all()
    assert (conv.member == -1).all()
    assert (conv.order == -1).all()
    assert (stem.order >= 0).all()
    # The 1x3 layer has no members, so it is in no part; the constant kernel counts nowhere.
    usage = found.usage()
    assert [(x["network"], x["from"], x["kernels"]) for x in usage] == [
        (0, "stem", 18), (0, "a", 19), (0, "b", 20), (1, "<i>", 50)
    ]  # fmt: skip
    for part, layer in zip(usage, found.layers, strict=False):
        counts = [int((layer.member == k).sum()) for k in range(8)]
        assert part["members"] == counts
    shares = [row["share"] for row in found.orders() if row["kernel_size"] == [5, 5]]
    assert sum(shares) == pytest.approx(1)


def test_a_draw_is_shared_out_evenly(networks):
    found = fs.map_kernels(_load(networks), method="pca", points=100)
    drawn = np.bincount(found.shown[:, 0], minlength=5)
    # Half of the points for each network, of which stem and the others take what they have.
    assert drawn.tolist() == [16, 17, 17, 25, 25]
    assert len(np.unique(found.shown, axis=0)) == 100
    assert found.points.shape == (100, 2)
    again = fs.map_kernels(_load(networks), method="pca", points=100)
    np.testing.assert_array_equal(found.shown, again.shown)
    everything = fs.map_kernels(_load(networks), method="pca", points=1000)
    assert len(everything.points) == 18 + 19 + 20 + 50 + 200


def test_shares():
    assert _shares([2, 100, 100], 50) == [2, 24, 24]
    assert _shares([5, 5], 50) == [5, 5]
    assert sum(_shares([7, 100, 31], 100)) == 100


def test_a_kernel_and_its_negative_are_one_point(tmp_path):
    kernels = np.random.default_rng(0).standard_normal((20, 1, 3, 3))
    path = tmp_path / "m.safetensors"
    save_file({"dw.weight": np.concatenate([kernels, -3 * kernels + 0.5])}, path)
    found = fs.map_kernels(fs.load(path), method="pca")
    np.testing.assert_allclose(found.points[:20], found.points[20:], atol=1e-9)


def test_page_and_tables(networks, fsurgeon, tmp_path):
    words = ("bank", "atlas", *networks, "--points", 50, "--method", "pca")
    page, table, result = (tmp_path / f"atlas.{kind}" for kind in ("html", "csv", "json"))
    drawn = fsurgeon(*words, "-o", page)
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout == b""
    shown = fsurgeon(*words, "-o", table, "--table").stdout.decode()
    assert "closest derivatives of Gaussians" in shown
    assert "usage of dog8 by depth" in shown
    found = fs.map_kernels(_load(networks), method=None)
    result.write_text(json.dumps(found.to_json()))
    text = page.read_text("utf-8")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//|@import|url\(", text)
    # Names of layers are data, never markup.
    assert "<i>.weight" not in text
    assert "\\u003ci\\u003e" in text
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert len(data["x"]) == len(data["layer"]) == 50
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 18 + 20 + 20 + 50 + 200
    content = json.loads(result.read_text())
    layer = content["layers"][2]
    row = next(x for x in rows if (x["layer"], x["kernel"]) == ("b", "7"))
    assert row["member"] == layer["member"][7]
    assert float(row["sigma_x"]) == layer["sigma_x"][7]
    assert row["order"] in ORDERS
    assert "points" not in content
    assert len(list(found.records())) == len(rows)


def test_what_an_atlas_refuses(networks, refuse, tmp_path):
    assert ".html, .json, .csv" in refuse("bank", "atlas", networks[0], "-o", "a.png")
    save_file({"p.weight": np.zeros((4, 4, 1, 1), np.float32)}, tmp_path / "p.safetensors")
    with pytest.raises(LayerError, match=r"p\.safetensors has no spatial convolution"):
        fs.map_kernels([fs.load(tmp_path / "p.safetensors")])
    first = fs.load(networks[0])
    with pytest.raises(OptionError, match="no bank called 'dog9'"):
        fs.map_kernels([first], bank="dog9")
    with pytest.raises(OptionError, match="did you mean pca"):
        fs.map_kernels([first], method="pc")
    with pytest.raises(OptionError, match="`points` 3"):
        fs.map_kernels([first], points=3)
    save_file({"one.weight": np.ones((1, 1, 3, 3), np.float32)}, tmp_path / "few.safetensors")
    with pytest.raises(LayerError, match="a layout needs at least 4"):
        fs.map_kernels([fs.load(tmp_path / "few.safetensors")], method="pca")
    with pytest.raises(OptionError, match="nothing was laid out"):
        fs.write_atlas(fs.map_kernels([first], method=None), tmp_path / "a.html")


def test_the_example_reads_convolutions_of_an_onnx_file(tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs onnx")
    from examples.onnx_weights import convolution_weights

    weights = np.arange(36, dtype=np.float32).reshape(4, 1, 3, 3)
    other = np.ones((2, 4, 1, 1), np.float32)
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    nodes = [
        make("Constant", [], ["w"], value=tensor(weights)),
        make("Conv", ["x", "w"], ["y"], group=4),
        make("Conv", ["y", "v"], ["z"]),
        make("Conv", ["z", "made"], ["out"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [], [], [tensor(other, "v")])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    found = convolution_weights(str(tmp_path / "m.onnx"))
    assert list(found) == ["conv0.weight", "conv1.weight"]
    np.testing.assert_array_equal(found["conv0.weight"], weights)
    np.testing.assert_array_equal(found["conv1.weight"], other)


@pytest.fixture
def chromium():
    yield from open_chromium()


@pytest.mark.slow
def test_the_page_in_a_browser(chromium, networks, tmp_path):
    found = fs.map_kernels(_load(networks), method="pca", points=60)
    page_file = tmp_path / "atlas.html"
    fs.write_atlas(found, page_file)
    errors: list[str] = []
    page = chromium.new_page(viewport={"width": 1100, "height": 800})
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(page_file.as_uri())
    assert page.locator("#legend button").all_inner_texts() == ["one (30)", "two (30)"]
    page.select_option("#colour", "member")
    legend = page.locator("#legend button").all_inner_texts()
    counts = {text.rpartition(" (")[0]: int(text.rpartition("(")[2][:-1]) for text in legend}
    member = [found.layers[layer].member[k] for layer, k in found.shown]
    expected = {found.labels[k] if k >= 0 else "none": member.count(k) for k in member}
    assert counts == expected
    # The point farthest to the right lies 3 % of the width or height from an edge.
    box = page.locator("#plot").bounding_box()
    spans = np.ptp(found.points, axis=0)
    unit = 0.94 * min(box["width"] / spans[0], box["height"] / spans[1])
    right = int(found.points[:, 0].argmax())
    middle = (found.points.min(axis=0) + found.points.max(axis=0)) / 2
    across, up = (found.points[right] - middle) * unit
    page.mouse.move(
        box["x"] + box["width"] / 2 + across, box["y"] + box["height"] / 2 - up
    )  # fmt: skip
    layer, kernel = found.shown[right]
    told = page.locator("#tip").inner_text()
    assert f"kernel {kernel}" in told
    assert found.layers[layer].name in told
    assert errors == []
