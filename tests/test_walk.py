"""The walk as Python sees it: steps, layout, scene, page."""

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.isotonic import IsotonicRegression
from torch import nn
from walking import as_input, torch_maps, write_image

import filtersurgeon as fs
from filtersurgeon.errors import OptionError
from filtersurgeon.walk.follow import Given, as_maps, follow
from filtersurgeon.walk.layout import (
    contract,
    fit_rising,
    lay_out,
    panel_size,
    ranks_of,
    without_hidden,
)
from filtersurgeon.walk.pairing import sections_of, subsequence
from filtersurgeon.walk.quantise import as_text, from_text, pack, quantise, unpack
from filtersurgeon.walk.record import client, read_walk, render
from filtersurgeon.walk.scene import Limit, WalkSettings
from filtersurgeon.walk.walking import limits, walk
from filtersurgeon.walk.weights import describe


class Branching(nn.Module):
    """Splits, joins, operators in place, a module that runs twice, and channels at the end."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.one = nn.Conv2d(4, 6, 1)
        self.two = nn.Conv2d(4, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.full((1, 12, 1, 1), 0.5))
        self.layer_norm = nn.LayerNorm(12)
        self.mix = nn.Linear(12, 12)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        low, high = x.chunk(2, dim=1)
        joined = torch.cat([self.act(self.one(low)), self.two(high)], 1)
        y = self.mix(self.layer_norm(joined.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        y = y * self.scale
        y += joined
        gate = torch.sigmoid(y.mean((2, 3), keepdim=True))
        return self.head(self.drop((y * gate).mean((2, 3))))


@pytest.fixture(scope="module")
def branching():
    torch.manual_seed(0)
    network = Branching().eval()
    image = torch.randn(1, 3, 6, 10)
    maps = {}
    steps, output = follow(network, image, lambda _n, step, m: maps.__setitem__(step.name, m))
    return network, image, steps, maps, output


def test_every_step_is_found_with_what_feeds_it(branching):
    *_, steps, _, _ = branching
    names = [step.name for step in steps]
    feeds = {s.name: [(names[f.step], f.through) for f in s.feeds] for s in steps}
    assert feeds == {
        "input": [],
        "stem": [("input", ())],
        "norm": [("stem", ())],
        "act": [("norm", ())],
        "one": [("act", ("split",))],
        "act#2": [("one", ())],
        "two": [("act", ("split",))],
        "/cat": [("act#2", ()), ("two", ())],
        "layer_norm": [("/cat", ())],
        "mix": [("layer_norm", ())],
        "/add": [("mix", ("scale",)), ("/cat", ())],
        "/mean": [("/add", ())],
        "/sigmoid": [("/mean", ())],
        "/mul": [("/add", ()), ("/sigmoid", ())],
        "/mean#2": [("/mul", ())],
        "head": [("/mean#2", ())],
    }
    kinds = {step.name: step.kind for step in steps}
    assert kinds["/cat"] == "concat"
    assert kinds["/add"] == "add"
    assert kinds["/mul"] == "multiply"
    assert kinds["/sigmoid"] == kinds["act#2"] == "activation"
    assert kinds["norm"] == kinds["layer_norm"] == "norm"
    assert kinds["/mean"] == "pool"


def test_maps_are_those_of_the_network_also_before_operators_in_place(branching):
    network, image, _, maps, output = branching
    with torch.no_grad():
        stem = network.stem(image)
        norm = network.norm(stem)
        act = norm.relu()
        joined = torch.cat([network.one(act[:, :4]).relu(), network.two(act[:, 4:])], 1)
        mixed = network.mix(network.layer_norm(joined.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        added = mixed * network.scale + joined
        expected = {"stem": stem, "norm": norm, "act": act, "/cat": joined, "mix": mixed,
                    "/add": added, "head": network(image)[..., None, None]}  # fmt: skip
    for name, value in expected.items():
        torch.testing.assert_close(torch.from_numpy(maps[name]), value[0])
    torch.testing.assert_close(output, network(image))


class Reordering(nn.Module):
    """Gives layers what others made: as it is, in one row, shuffled, in part, in place."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.shuffled = nn.Conv2d(8, 8, 1)
        self.part = nn.Conv2d(4, 8, 1)
        self.pool = nn.AvgPool2d(2)
        self.flat = nn.Linear(72, 5)

    def forward(self, x):
        x = self.act(self.stem(x))
        n, _, height, width = x.shape
        mixed = x.view(n, 2, 4, height, width).transpose(1, 2).reshape(n, 8, height, width)
        x = self.shuffled(mixed) + self.part(x[:, 2:6])
        return self.flat(self.pool(torch.relu_(x)).flatten(1))


def test_what_a_layer_is_given_is_told_from_what_another_made():
    torch.manual_seed(0)
    given = Given()
    image = torch.randn(1, 3, 6, 6)
    steps, _ = follow(Reordering().eval(), image, lambda *_: None, given)
    links = {step.name: links for step, links in zip(steps, given.links, strict=True)}
    assert links == {
        "input": (), "stem": ("same",), "act": ("same",), "shuffled": ("",), "part": ("",),
        "/add": ("same", "same"), "/relu": ("same",), "pool": ("same",), "flat": ("flat",),
    }  # fmt: skip


def test_hidden_steps_are_named_on_the_way(branching):
    *_, steps, _, _ = branching
    shown = contract(steps, without_hidden(steps))
    names = [step.name for step in shown]
    assert "norm" not in names
    act = shown[names.index("act")]
    assert [(names[f.step], f.through) for f in act.feeds] == [("stem", ("batch norm",))]


def test_tokens_and_vectors_become_maps():
    assert as_maps(torch.zeros(1, 7), 1).shape == (7, 1, 1)
    assert as_maps(torch.zeros(1, 9, 7), 2).shape == (7, 3, 3)
    assert as_maps(torch.zeros(1, 10, 7), 2).shape == (7, 1, 10)
    assert as_maps(torch.zeros(1, 4, 5, 7), 3).shape == (7, 4, 5)


numbers = hnp.arrays(
    np.float32, (3, 4, 5), elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
)


@given(numbers)
@settings(max_examples=60)
def test_quantised_maps_are_right_to_half_a_step_and_zero_is_zero(maps):
    maps[1, 2, 3] = 0
    found = quantise(maps)
    half = found.bound.astype(np.float64)[:, None, None] / 254
    exact = np.abs(found.dequantised().astype(np.float64) - maps)
    assert (exact <= half * (1 + 1e-5) + 1e-30).all()
    assert found.values[1, 2, 3] == 128
    assert found.dequantised()[1, 2, 3] == 0
    np.testing.assert_array_equal(found.bound, np.abs(maps).max((1, 2)))
    mean = maps.mean((1, 2), np.float64)
    np.testing.assert_allclose(found.facts[:, 2], mean, atol=1e-6 * (1 + np.abs(maps).max()))


def test_what_is_not_finite_is_told_from_numbers():
    maps = np.array([[[1.0, -2.0, np.nan, np.inf]]], np.float32)
    found = quantise(maps)
    np.testing.assert_array_equal(found.values, [[[192, 1, 0, 0]]])
    assert np.isnan(found.dequantised()[0, 0, 2:]).all()


@given(st.binary(max_size=300))
def test_bytes_survive_their_way_through_text(content):
    text = as_text(content)
    assert from_text(text) == content
    assert not set(text) & set("<>&\"'\\ \n")


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=12)))
def test_packed_maps_come_back(values):
    np.testing.assert_array_equal(unpack(pack(values), values.shape), values)


@given(
    hnp.arrays(np.float64, 12, elements=st.floats(-9, 9)),
    hnp.arrays(np.float64, 12, elements=st.floats(0.5, 4)),
)
def test_rising_is_isotonic_regression(values, weights):
    expected = IsotonicRegression().fit(np.arange(12), values, weights).predict(np.arange(12))
    np.testing.assert_allclose(fit_rising(values, weights), expected, atol=1e-9)


def test_panels_stand_along_the_longest_way_and_never_in_each_other(branching):
    *_, steps, maps, _ = branching
    shapes = [maps[step.name].shape for step in steps]
    places, ways = lay_out(steps, shapes)
    ranks = ranks_of(steps)
    for number, step in enumerate(steps):
        assert all(ranks[feed.step] < ranks[number] for feed in step.feeds)
        assert places[number].z == pytest.approx(places[1].z * ranks[number])
    for one in range(len(steps)):
        for other in range(one):
            if ranks[one] == ranks[other]:
                apart = abs(places[one].x - places[other].x)
                assert apart >= (places[one].width + places[other].width) / 2
    assert len(ways) == sum(len(step.feeds) for step in steps)
    for way in ways:
        assert len(way.via) == ranks[way.target] - ranks[way.source] - 1


@pytest.mark.parametrize("shape", [(3, 224, 224), (64, 7, 7), (1000, 1, 1), (1, 1, 1), (96, 3, 40)])
def test_panels_have_room_for_every_map_and_a_size_that_can_be_seen(shape):
    width, height, columns = panel_size(*shape)
    rows = math.ceil(shape[0] / columns)
    assert width / height == pytest.approx(columns * shape[2] / (rows * shape[1]))
    assert 1 < math.sqrt(width * height) < 5
    assert columns * rows - shape[0] < columns


def test_sections_follow_the_names_of_modules():
    stages = [f"layer{n}.{b}.conv1" for n in (1, 2) for b in range(3)]
    assert sections_of(["", "conv1", "bn1", *stages, "fc"]) == [
        "", "conv1 \u2013 bn1", "conv1 \u2013 bn1", *["layer1"] * 3, *["layer2"] * 3, "fc"
    ]  # fmt: skip
    deep = [f"stages.{n}.blocks.{b}.fc" for n in range(2) for b in range(4)]
    assert sections_of([*deep, "head"]) == [*["stages.0"] * 4, *["stages.1"] * 4, "head"]


def test_chosen_rows_are_found_in_order():
    rows = np.array([[1, 2], [3, 4], [1, 2], [5, 6]], np.float32)
    assert subsequence(rows, rows[[1, 2]]) == (1, 2)
    assert subsequence(rows, rows[[0, 3]]) == (0, 3)
    assert subsequence(rows, rows[[3, 0]]) is None
    assert subsequence(rows, rows[:, :1]) is None


def test_filters_are_told_by_their_strongest_kernels():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4, 20, 3, 3)).astype(np.float32)
    found = describe("a", values)
    norms = np.linalg.norm(values.reshape(4, 20, 9), axis=2)
    for number in range(4):
        best = sorted(range(20), key=lambda n, own=norms[number]: -own[n])[:12]
        assert found.inputs[number].tolist() == best
        shown = found.kernels.dequantised()[number].reshape(12, 3, 3)
        half = found.kernels.bound[number] / 254
        np.testing.assert_allclose(shown, values[number, best], atol=half * 1.001)
        assert found.norms[number] == pytest.approx(np.linalg.norm(values[number]), rel=1e-5)
    x = np.arange(3)
    dct = np.array([np.cos(np.pi / 3 * (x + 0.5) * u) for u in range(3)])
    dct /= np.linalg.norm(dct, axis=1, keepdims=True)
    e2 = np.abs(np.einsum("fikl,uk,vl->fiuv", values, dct, dct)).mean(1)
    e0 = (np.sqrt(e2).sum(2) + np.sqrt(e2).sum(1)) / 2
    np.testing.assert_allclose(found.spectra, e0, rtol=1e-4)


@pytest.fixture(scope="module")
def resnet():
    return fs.untrained("timm:resnet18", num_classes=1000)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return write_image(tmp_path_factory.mktemp("image") / "a.png", 64)


SMALL = WalkSettings(preprocess={"input_size": [3, 64, 64]})


@pytest.fixture(scope="module")
def walked(resnet, image, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "walk.html"
    return walk(resnet, path, [str(image)], settings=SMALL), path


SAMPLED = ["conv1", "act1", "maxpool", "layer1.0.conv1", "layer2.0.downsample.0",
           "layer3.1.conv2", "layer4.1.act2", "global_pool", "fc"]  # fmt: skip


def test_panels_show_the_maps_that_torch_computes(resnet, image, walked):
    scene, path = walked
    expected = torch_maps(resnet, as_input(image, resnet), SAMPLED)
    for found in (scene, read_walk(path)):
        network = found.networks[0]
        for name in SAMPLED:
            maps = expected[name]
            panel = network.panels[network.panel(name)]
            assert panel.shape == maps.shape
            half = network.seen[0].maps[network.panel(name)].bound[:, None, None] / 254
            assert (np.abs(network.maps(name) - maps) <= half * 1.001 + 1e-6).all(), name


def test_the_classes_are_those_of_the_network(resnet, image, walked):
    with torch.no_grad():
        shares = fs.build(resnet)(as_input(image, resnet))[0].softmax(0)
    guesses = walked[0].networks[0].seen[0].guesses
    assert [guess.index for guess in guesses] == shares.topk(5).indices.tolist()
    assert guesses[0].share == pytest.approx(float(shares.max()), rel=1e-4)
    assert not guesses[0].label.startswith("class ")


def test_layers_say_how_their_values_are_computed(resnet, walked):
    network = read_walk(walked[1]).networks[0]
    assert (network.scores, network.classes) == (network.panel("fc"), (network.panel("fc"),))
    assert len(network.labels) == 1000
    pool = network.panels[network.panel("maxpool")].rule
    assert (pool.how, pool.window, pool.stride, pool.padding) == ("max", (3, 3), (2, 2), (1, 1))
    stem = network.panels[network.panel("conv1")].rule
    assert (stem.how, stem.stride, stem.padding, stem.bias) == ("conv", (2, 2), (3, 3), None)
    model = fs.build(resnet)
    np.testing.assert_allclose(
        network.panels[network.panel("fc")].rule.bias, model.fc.bias.detach(), rtol=1e-6
    )
    (link,) = network.panels[network.panel("layer1.0.act1")].links
    norm = model.layer1[0].bn1
    x = torch.randn(2, 64, 3, 3)
    scale, shift = (torch.from_numpy(row.copy())[:, None, None] for row in link.affine)
    torch.testing.assert_close(x * scale + shift, norm(x))


def test_all_kernels_are_kept_where_they_are_few_and_the_page_grows_little(resnet, walked):
    network = read_walk(walked[1]).networks[0]
    kept = {p.step.name: p.weights.whole for p in network.panels if p.weights and p.weights.whole}
    assert "layer2.0.downsample.0" in kept
    assert "layer4.0.conv1" not in kept
    assert "conv1" not in kept  # its three kernels are there anyway
    model = fs.build(resnet)
    weight = model.layer2[0].downsample[0].weight.detach().numpy()
    whole = kept["layer2.0.downsample.0"]
    half = float(whole.bound.max()) / 254
    np.testing.assert_allclose(whole.dequantised().reshape(weight.shape), weight, atol=1.01 * half)
    texts = sum(len(pack(one.values)) for one in kept.values())
    assert texts <= 0.04 * walked[1].stat().st_size


def test_the_counts_of_weights_are_a_histogram():
    values = np.random.default_rng(1).standard_normal((6, 5, 3, 3)).astype(np.float32)
    found = describe("a", values)
    most = np.abs(values).max()
    assert found.largest == pytest.approx(float(most))
    assert found.counts == tuple(np.histogram(values, 48, (-most, most))[0])
    assert describe("a", np.zeros_like(values)).counts[24] == values.size


def test_what_other_panels_hold_is_not_stored_again(walked):
    content = _content(walked[1])
    maps = content["networks"][0]["seen"][0]["maps"]
    names = [panel["name"] for panel in content["networks"][0]["panels"]]
    assert maps[names.index("layer1.0.act2")]["rectified"] == names.index("layer1.0/add")
    dense = [m for m in maps if "blob" in m]
    assert len(dense) < len(maps)


def _content(path):
    text = path.read_text("utf-8")
    start = text.index('id="scene">') + len('id="scene">')
    return json.loads(text[start : text.index("</script>", start)])


def test_the_page_holds_the_scene_and_is_the_same_every_time(resnet, image, walked, tmp_path):
    scene, path = walked
    again = read_walk(path)
    assert render(again) == path.read_text("utf-8")
    first, second = scene.networks[0], again.networks[0]
    assert [p.step for p in first.panels] == [p.step for p in second.panels]
    np.testing.assert_array_equal(
        first.panels[1].weights.kernels.values, second.panels[1].weights.kernels.values
    )
    walk(resnet, tmp_path / "again.html", [str(image)], settings=SMALL)
    assert (tmp_path / "again.html").read_bytes() == path.read_bytes()


def test_the_page_asks_for_nothing_and_holds_no_path(walked):
    text = walked[1].read_text("utf-8")
    assert "connect-src &#39;none&#39;" in text or "connect-src 'none'" in text
    assert str(walked[1].parent) not in text
    assert "src=" not in text[: text.index("<script type")]


def test_a_bound_on_the_page_is_kept_and_told(resnet, image, tmp_path, walked):
    told = []
    full = walked[1].stat().st_size
    bound = (full - 300_000) / 1e6
    path = tmp_path / "small.html"
    small = walk(
        resnet, path, [str(image)], settings=replace(SMALL, max_size=bound), tell=told.append
    )
    assert path.stat().st_size <= bound * 1e6
    assert small.limit.side is not None
    assert any(small.limit.text in text for text in told)
    side = small.limit.side
    expected = torch_maps(resnet, as_input(image, resnet), ["conv1"])["conv1"]
    pooled = nn.functional.adaptive_avg_pool2d(torch.from_numpy(expected), side).numpy()
    np.testing.assert_allclose(
        small.networks[0].maps("conv1"), pooled, atol=np.abs(pooled).max() / 254 * 1.01
    )
    with pytest.raises(OptionError, match="`max_size`"):
        walk(resnet, tmp_path / "none.html", [str(image)], settings=replace(SMALL, max_size=0.1))
    assert not (tmp_path / "none.html").exists()


def test_limits_become_harsher_step_by_step():
    listed = list(limits([(64, 112, 112), (2048, 7, 7)]))
    sides = [limit.side for limit in listed]
    assert sides == sorted(sides, reverse=True)
    assert sides[0] == 84
    assert listed[-1] == Limit(4, 16)
    assert all(limit.channels is None for limit in listed if limit.side > 4)


@pytest.mark.parametrize("mode", ["tensor", "norm"])
def test_a_pruned_network_stands_beside_with_gaps_for_what_it_lost(resnet, image, tmp_path, mode):
    options = {"per_layer": True, "sparsity": 0.4}
    if mode == "norm":
        options["compensate"] = "merge"  # changes weights, so that norms have to tell
    slim = fs.prune(resnet, **options)
    fs.save(slim, tmp_path / "slim.safetensors")
    slim = fs.load(tmp_path / "slim.safetensors")
    scene = walk(resnet, tmp_path / "pair.html", [str(image)], slim, SMALL)
    wide, narrow = read_walk(tmp_path / "pair.html").networks
    assert not narrow.notes
    networks = [fs.build(x) for x in (resnet, slim)]
    for panel in narrow.panels:
        twin = wide.panels[wide.panel(panel.step.name)]
        assert panel.lost == twin.shape[0] - panel.shape[0]
        assert panel.place.z == twin.place.z
        assert panel.place.columns == twin.place.columns
        if panel.slots is not None:
            assert list(panel.slots) == sorted(set(panel.slots))
    assert sum(panel.lost for panel in narrow.panels) > 500
    # The first normalisation is never compensated, so it tells which channels are left.
    for name, norm in (("conv1", "bn1"), ("layer3.0.conv1", "layer3.0.bn1")):
        slots = list(narrow.panels[narrow.panel(name)].slots)
        full, left = (n.get_submodule(norm).weight.detach() for n in networks)
        assert len(slots) == len(left)
        torch.testing.assert_close(full[slots], left)
    first = list(narrow.panels[narrow.panel("conv1")].slots)
    full, left = (n.conv1.weight.detach() for n in networks)
    assert torch.equal(full[first], left)
    np.testing.assert_allclose(wide.maps("conv1")[first], narrow.maps("conv1"), atol=1e-5)
    assert scene.networks[1].name == "slim"


def test_networks_that_cannot_be_matched_say_so(resnet, image, tmp_path):
    told = []
    other = fs.untrained("timm:resnet10t")
    scene = walk(resnet, tmp_path / "p.html", [str(image)], other, SMALL, tell=told.append)
    assert any("cannot be matched" in text for text in told)
    first, second = scene.networks
    right = max(p.place.x + p.place.width / 2 for p in first.panels)
    assert min(p.place.x - p.place.width / 2 for p in second.panels) > right


def test_several_images_and_a_ranking_of_the_file(image, tmp_path):
    other = write_image(tmp_path / "b.png", 64, seed=1)
    checkpoint = fs.untrained("timm:resnet18")
    ranking = fs.rank(checkpoint, "l1")
    scene = walk(
        ranking.annotate(checkpoint), tmp_path / "w.html", [str(image), str(other)], settings=SMALL
    )
    network = scene.networks[0]
    assert [picture.name for picture in scene.pictures] == ["a.png", "b.png"]
    assert np.abs(network.maps("conv1", 0) - network.maps("conv1", 1)).max() > 0.1
    weights = network.panels[network.panel("layer1.0.conv1")].weights
    assert network.ranking == "l1"
    layer = ranking.layers["layer1.0.conv1"]
    np.testing.assert_allclose(weights.scores, layer.scores, rtol=1e-6)
    assert weights.places[layer.order[0]] == 0


def test_pictures_are_baked_in(image, tmp_path, fsurgeon):
    fs.save(fs.untrained("timm:resnet18"), tmp_path / "m.safetensors")
    done = fsurgeon(
        "walk", tmp_path / "m.safetensors", "--image", image, "-o", tmp_path / "w.html",
        "--decode", "layer1.0.conv1", "--units", "2,5", "--preprocess", "input_size=3,64,64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stdout
    network = read_walk(tmp_path / "w.html").networks[0]
    number = network.panel("layer1.0.conv1")
    assert sorted(network.made) == [(number, 2), (number, 5)]
    made = network.made[number, 2][0]
    assert made.how == "decoded"
    assert made.pixels.std() > 1


def test_refusals(refuse, tmp_path, image):
    fs.save(fs.untrained("timm:resnet18"), tmp_path / "m.safetensors")
    model, page = tmp_path / "m.safetensors", tmp_path / "w.html"
    assert "-o FILE.html" in refuse("walk", model, "--image", image)
    assert "--image FILE" in refuse("walk", model, "-o", page)
    assert "ends in .html" in refuse("walk", model, "--image", image, "-o", tmp_path / "w.json")
    assert "--decode" in refuse("walk", model, "--image", image, "-o", page, "--units", "3")
    message = refuse("walk", model, "--image", image, "-o", page, "--ranking", "l3")
    assert "no ranking method called 'l3'" in message
    message = refuse("walk", model, "--image", image, "-o", page, "--ranking", "saliency")
    assert "--annotate" in message
    assert "--serve" in refuse("walk", model, "--image", image, "-o", page, "--port", 99)
    assert "leave -o out" in refuse("walk", model, "-o", page, "--serve")
    assert "no such file" in refuse("walk", model, "--image", tmp_path / "no.png", "-o", page)


def test_other_pages_are_refused(tmp_path):
    (tmp_path / "a.html").write_text("<p>hello</p>")
    with pytest.raises(fs.FilterSurgeonError, match="not a page of fsurgeon walk"):
        read_walk(tmp_path / "a.html")


def test_the_script_is_the_one_that_its_sources_give():
    """The bundle names the digest of what it was made from; ``make client-check`` rebuilds it."""
    folder = Path(__file__).parents[1] / "client"
    sources = ["build.mjs", "package.json", "package-lock.json", "tsconfig.json"]
    sources += sorted(f"src/{path.name}" for path in (folder / "src").iterdir())
    digest = hashlib.sha256()
    for name in sources:
        digest.update(name.encode() + b"\0" + (folder / name).read_bytes() + b"\0")
    head = client()[:4000]
    assert f"sources sha256:{digest.hexdigest()}" in head, "run `make client`"
    assert "three.js authors" in head
    assert "http" not in (folder / "package-lock.json").read_text("utf-8")
