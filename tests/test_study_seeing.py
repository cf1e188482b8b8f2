"""Studies of decoding, of memorisation and of rectifiers, on planted structures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import digits as digits  # a fixture
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.networks.skeleton import skeleton
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies import _decode_pictures, gradients, memorisation, norm_inputs
from filtersurgeon.studies import decode as decode_file
from filtersurgeon.studies import white_image as white_file
from filtersurgeon.studies._lab import Lab, draw_study
from filtersurgeon.studies._presets import with_preset

torch.set_num_threads(1)
FACTORY = "factory:examples.zoo.networks:lenet5"


@pytest.fixture
def lab(digits):
    checkpoint = fs.load("le.safetensors", arch=FACTORY)
    data = fs.DataSpec(str(digits / "digits.npz"), subset=20)
    return Lab(checkpoint, str(digits / "le.safetensors"), data)


# Decoding


def test_decode_measures_what_the_command_measures(lab):
    lab = replace(lab, layers=["conv1", "conv2", "fc3"])
    found = fs.study("decode", lab, {"upsample": "nearest", "units": "0-5"}).findings["rows"]
    settings = fs.DecodeSettings(lab.layers, "0-5", "nearest")
    expected = fs.decode(lab.checkpoint, settings, data=lab.data)
    assert [row["layer"] for row in found] == ["conv1", "conv2", "fc3"]
    assert [row["error"] for row in found] == [layer.fit.error for layer in expected]
    assert [row["correlation"] for row in found] == [layer.fit.correlation for layer in expected]
    row = found[1]
    half = 1.96 * row["deviation"] / 20**0.5
    assert row["interval"] == pytest.approx([row["error"] - half, row["error"] + half])
    assert {row["paper"] for row in found} == {None}  # another network than the paper's


def test_decoded_filters_of_a_linear_network_predict_it_exactly():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.Conv2d(3, 2, 3, bias=False), nn.Flatten(),
        nn.Linear(32, 4, bias=False),
    ).eval()  # fmt: skip
    images = torch.randn(6, 1, 8, 8, generator=torch.manual_seed(0))
    found = fs.decode(
        model, fs.DecodeSettings(["*"]), data=[(image, 0) for image in images],
        example_inputs=images[:1], preprocess={"input_size": (1, 8, 8)},
    )  # fmt: skip
    for layer in found:
        assert layer.fit.error == pytest.approx(0, abs=1e-12)
        assert layer.fit.correlation == pytest.approx(1)


def test_decode_gives_the_spread_of_networks_trained_from_scratch(lab):
    options = {"upsample": "nearest", "seeds": 2, "epochs": 1, "train_subset": 20, "units": "0,1"}
    found = fs.study("decode", replace(lab, layers=["conv2"]), options)
    [row] = found.findings["rows"]
    first, second = row["errors_from_scratch"]
    assert first != second
    assert row["from_scratch"][0] == pytest.approx((first + second) / 2)
    assert found.options == options


def test_values_of_table_1_stand_beside_a_network_of_its_shapes():
    checkpoint = fs.untrained("factory:examples.zoo.networks:lenet_matconvnet")
    rows = [
        {"layer": f"conv{n}", "upsample": "bilinear", "error": 0.01, "deviation": 0.0}
        for n in (1, 2, 3, 4)
    ]
    found = decode_file._with_paper(rows, checkpoint)
    values = [row["paper"] for row in found]
    assert values == [None, (0.003, 0.001), (0.013, 0.0055), (0.081, 0.057)]
    words = list(decode_file._remarks(found))
    assert [" outside of " in word for word in words] == [True, False, True]


@pytest.mark.parametrize("figure", ["classes", "responses"])
def test_figures_of_the_decoding_paper(lab, tmp_path, figure):
    chosen = replace(lab, layers=["conv2", "fc3"])
    found = fs.study("decode", chosen, {"figure": figure, "upsample": "nearest", "shown": 3})
    draw_study(found, tmp_path / "f.png")
    if figure == "classes":
        values = np.array(found.findings["classes"]["responses"])
        # Each image is the one with the highest response to its filter.
        assert np.allclose(values.diagonal(), values.max(1))
        assert 0 <= found.findings["classes"]["diagonal"] <= 10


def test_responses_are_scaled_and_laid_out():
    maps = np.arange(2 * 3 * 3.0).reshape(2, 3, 3)
    scaled = _decode_pictures._scaled(maps)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert len(_decode_pictures._maps(scaled)) == 2
    [page] = _decode_pictures._maps(np.linspace(0, 1, 500))
    assert page.shape[:2] == (20, 25)
    [page] = _decode_pictures._maps(np.linspace(0, 1, 13))  # no rows of equal length
    assert page.shape[:2] == (4, 4)


def test_mistakes_in_studies_of_decoding(lab):
    for options, words in (
        ({"figure": "errrors"}, "is none of errors, classes, responses"),
        ({"upsample": "cubic"}, "is none of nearest, bilinear, bicubic"),
        ({"figure": "responses", "shown": 12, "upsample": "nearest"}, "no image of this class"),
        ({"epochs": 0}, "at least 1"),
    ):
        with pytest.raises(OptionError, match=words):
            fs.study("decode", replace(lab, layers=["conv1"]), options)


# Memorisation


def test_numbers_of_planted_maps():
    flat = np.ones((1, 4, 6, 6)) * np.arange(4.0).reshape(1, 4, 1, 1)
    found = memorisation.measure_maps(flat)
    assert found.between == pytest.approx([1])
    assert np.isnan(found.neighbours).all()

    board = np.indices((6, 6)).sum(0) % 2 * 1.0
    found = memorisation.measure_maps(np.broadcast_to(board, (2, 3, 6, 6)))
    assert found.neighbours == pytest.approx([-1, -1])
    assert found.between == pytest.approx([0, 0])

    noise = np.random.default_rng(0).normal(size=(1, 64, 32, 32))
    found = memorisation.measure_maps(noise)
    assert abs(found.neighbours[0]) < 0.02
    assert found.between[0] == pytest.approx(1 / 32**2, abs=0.001)

    # A moving average of two columns: neighbours in a row share half of their variance.
    smooth = (noise[..., 1:] + noise[..., :-1]) / 2
    assert memorisation.measure_maps(smooth).neighbours[0] == pytest.approx(0.25, abs=0.02)


def test_presets_are_the_experiments_of_table_4_1():
    expected = {
        "caltech101-covid-resnet": ("200,250,1000", "150x175", 9_838_146),
        "sars-covid-resnet": ("150,250,1000", "180x250", 9_838_146),
        "sars-covid-densenet": ("150,250,1000", "180x250", 1_439_138),
    }
    assert set(memorisation.PRESETS) == set(expected)
    for name, (epochs, size, parameters) in expected.items():
        chosen = STUDIES.bind("memorisation", with_preset("memorisation", {"preset": name}))
        assert (chosen["epochs"], chosen["size"]) == (epochs, size)
        assert memorisation.AUGMENTATIONS[chosen["augmentation"]].hflip == 0.5
        model = skeleton(chosen["network"], num_classes=2)
        assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "classes"),
    [("caltech101-covid-resnet", ("accordion", "ant", "bonsai")),
     ("sars-covid-densenet", ("COVID", "non-COVID"))],
)  # fmt: skip
def test_presets_train_on_photographs_of_many_sizes(tmp_path, preset, classes):
    """The data sets lie as they are published: JPEG files of several sizes, some grey."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 2), ("test", 1)):
        for k, name in enumerate(classes):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                size = (140 + 30 * number, 200 - 20 * k) + (() if number else (3,))
                pixels = rng.integers(0, 256, size, np.uint8)
                Image.fromarray(pixels).save(folder / f"image_{number:04}.jpg")
    data = fs.DataSpec(str(tmp_path))
    lab = Lab(None, "-", data, evaluation=replace(Lab().evaluation, batch_size=3))
    short = {"epochs": "1", "maps": 4, "units": 2, "steps": 1, "images": 2}
    found = fs.study("memorisation", lab, {"preset": preset, **short})
    rows = found.findings["strategies"]
    assert [row["epochs"] for row in rows] == [1, 1, 1]
    assert all(0 <= row["test"] <= 1 for row in rows)
    assert found.options["size"] == memorisation.PRESETS[preset]["size"]
    draw_study(found, tmp_path / "maps.png")
    assert Image.open(tmp_path / "maps.png").width > 300


def test_the_size_of_images_is_stated(lab):
    sized = memorisation._with_size(lab, "20x24")
    assert sized.preprocess["input_size"] == (1, 20, 24)
    assert memorisation._with_size(lab, "") is lab
    for wrong in ("20", "0x5", "axb"):
        with pytest.raises(OptionError, match="height and width"):
            memorisation._with_size(lab, wrong)


# Rectifiers


def test_white_images_by_closed_forms():
    found = fs.study("white-image", Lab(), {"side": 8, "proxies": "0.1,0.3"}).findings["solutions"]
    start = white_file._noise(8, 0)
    light = float((start > 0).mean())
    by_name = {}
    for row in found:
        by_name.setdefault(row["function"][:2], []).append(row)
    sparse, race, local, kernel = by_name.values()

    # f1: pixels above zero become white, the others stay as they are.
    assert (sparse[0]["white"], sparse[0]["black"]) == (light, 0)
    assert sparse[0]["value"] == pytest.approx(light)
    # f2: the darkest pixel climbs at the slope's rate until it is above zero.
    x, steps = float(start.min()), 0
    while x < 1:
        x, steps = x + 0.1 * (1 if x > 0 else 0.1), steps + 1
    assert [row["steps"] for row in race[:2]] == [steps, steps]
    # f3: dark pixels become black, unless the proxy's slope exceeds p = 0.2.
    assert (local[0]["white"], local[0]["black"]) == (light, 1 - light)
    best = 1 - 0.2 * 0.1
    assert local[0]["value"] == pytest.approx((light * best + (1 - light) * (0.2 - 0.1)) / best)
    assert [row["steps"] is None for row in local] == [True, True, False]
    assert [row["steps"] is None for row in kernel] == [True, True, False]
    assert kernel[0]["value"] < 0.95


def test_white_image_refuses_what_the_problems_exclude(tmp_path):
    for options in ({"slope": 0.3}, {"weight": 1.0}, {"side": 2}, {"proxies": "0"}):
        with pytest.raises(OptionError):
            fs.study("white-image", Lab(), options)
    draw_study(fs.study("white-image", Lab(), {"steps": 5, "side": 4}), tmp_path / "w.png")


@pytest.mark.parametrize("slope", [0.0, 0.1, 0.5])
def test_deviation_after_one_leaky_relu_is_that_of_appendix_a_2(slope):
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(2))
    images = torch.randn(64, 2, 48, 48, generator=torch.manual_seed(0))
    [found] = norm_inputs.measure_deviations(model, ["1"], images, slope)
    assert found == pytest.approx(norm_inputs.expected_deviation(slope), rel=0.01)
    assert norm_inputs.expected_deviation(1.0) == 1


def test_norm_inputs_of_a_network(digits, tmp_path):
    checkpoint = fs.untrained("timm:test_resnet", num_classes=10)
    data = fs.DataSpec(str(digits / "digits.npz"))
    options = {"repeats": 2, "batch": 8, "slopes": "0.2", "shown": 3}
    size = {"input_size": (3, 32, 32)}
    found = fs.study("norm-inputs", Lab(checkpoint, data=data, preprocess=size), options)
    layers = list(dict.fromkeys(row["layer"] for row in found.findings["deviations"]))
    assert len(layers) == 3
    assert all(row["ratio"][0] == 1 for row in found.findings["deviations"] if row["slope"] == 0)
    draw_study(found, tmp_path / "n.png")
    with pytest.raises(LayerError, match="no batch normalisation"):
        norm_inputs._layers(nn.Sequential(nn.Conv2d(1, 1, 1)), None, 3)


@pytest.mark.parametrize("kind", ["relu", "leaky-relu", "proxygrad"])
def test_sorted_derivatives_are_those_of_a_hand_made_gradient(kind):
    """One layer, a rectifier and a classifier, whose gradient is known."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18, 3))
    pairs = [(torch.randn(1, 3, 3), label) for label in (0, 2, 1, 1)]
    slope = 0.0 if kind == "relu" else 0.3
    found = gradients._size(model, "0", pairs, (kind, slope, True))
    with torch.no_grad():
        below = model[0](torch.stack([image for image, _ in pairs]))
        leak = slope if kind == "leaky-relu" else 0.0
        scores = model[3](functional.leaky_relu(below, leak).flatten(1))
        right = functional.one_hot(torch.tensor([label for _, label in pairs]), 3)
        upper = (scores.softmax(1) - right) / len(pairs) @ model[3].weight
        expected = (upper.view_as(below) * torch.where(below > 0, 1.0, slope)).abs().double()
    assert found[0] == pytest.approx(float(expected.mean()), rel=1e-5)
    levels = np.quantile(expected.numpy(), np.linspace(0, 1, 101))
    assert np.allclose(found[1:], levels, rtol=1e-5, atol=1e-9)
