"""Grad-CAM, feature maps, embeddings, sheets, and the random changes of activation maximisation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import small_cfg, tiny_net
from PIL import Image
from small_data import LENET
from small_data import digits as digits  # a fixture
from torch import nn
from torch.nn import functional

from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.errors import DataError, LayerError, OptionError
from filtersurgeon.learn.networks import Network
from filtersurgeon.plots import sheet, tones
from filtersurgeon.plots.sheet import Row, draw_sheet
from filtersurgeon.see import random_transforms
from filtersurgeon.see.embedding import _align, both_splits
from filtersurgeon.see.gradcam import last_map, look

torch.set_num_threads(1)


def network(model: nn.Module, size: int = 8) -> Network:
    return Network("it", model.eval(), read_preprocessing(small_cfg(size=size)), 2)


class Corner(nn.Module):
    """Class 1 is the brightness of the upper left corner, class 0 that of the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1, bias=False)
        self.pool = nn.AdaptiveAvgPool2d(1)
        nn.init.constant_(self.conv.weight, 1 / 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.zeros(2, 8, 8)
        mask[1, :4, :4], mask[0] = 1, 1 - mask[1]
        return self.pool(self.conv(x) * mask).flatten(1)


def test_gradcam_is_the_weighted_sum_of_channels():
    model = tiny_net()
    images = torch.randn(3, 3, 8, 8)
    found = look(network(model), images, "pointwise", [0, 1, 1])
    with torch.no_grad():
        x = torch.relu(model.norm(model.stem(images)))
        maps = model.pointwise(model.depthwise(x))
    # The head reads the mean of relu(maps), so the gradient is known.
    for place, target in enumerate((0, 1, 1)):
        slopes = (maps[place] > 0).float() * model.head.weight[target].view(-1, 1, 1) / 64
        weights = slopes.mean((1, 2))
        heat = functional.relu((weights.view(-1, 1, 1) * maps[place]).sum(0)).detach()
        expected = heat / max(float(heat.max()), 1e-12)
        assert np.allclose(found.maps[place], expected, atol=1e-5)


def test_the_last_map_is_before_the_pooling():
    model = Corner().eval()
    assert last_map(model, torch.zeros(1, 3, 8, 8)) == "conv"
    vgg = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2),
    )  # fmt: skip
    assert last_map(vgg, torch.zeros(1, 3, 8, 8)) == "0.1"
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(LayerError, match="no layer of this network has a map"):
        last_map(flat, torch.zeros(1, 3, 8, 8))
    with pytest.raises(LayerError, match="did you mean conv"):
        look(network(model), torch.zeros(1, 3, 8, 8), "con")
    with pytest.raises(LayerError, match="has no map of positions"):
        look(network(model), torch.zeros(1, 3, 8, 8), "pool")


@pytest.mark.usefixtures("digits")
def test_gradcam_of_a_pair_on_the_command_line(fsurgeon, refuse):
    image = np.zeros((40, 50, 3), np.uint8)
    image[8:30, 20:28] = 255
    Image.fromarray(image).save("one.png")
    other = fsurgeon("convert", "le.safetensors", *LENET, "--activation", "leaky-relu",
                     "--slope", 0.5, "-o", "other.safetensors")  # fmt: skip
    assert other.returncode == 0, other.stderr.decode()
    words = ("gradcam", "le.safetensors", *LENET, "--against", "other.safetensors")
    done = fsurgeon(*words, "--image", "one.png", "--layer", "conv2", "--picture", "g.png")
    assert done.returncode == 0, done.stderr.decode()
    note = done.stderr.decode()
    assert "converted from RGB to L" in note
    assert "resized from 50x40 to 28x28" in note
    content = json.loads(done.stdout)
    assert [x["layer"] for x in content["checkpoints"]] == ["conv2", "conv2"]
    assert content["checkpoints"][0]["difference"] is None
    assert content["checkpoints"][1]["difference"][0] > 0
    assert Image.open("g.png").width > 500
    assert "no such file" in refuse(*words, "--image", "two.png")
    assert "--image" in refuse(*words)
    assert "class 10 is not among the 10" in refuse(*words, "--image", "one.png", "--class", 10)


@pytest.mark.usefixtures("digits")
def test_activations_of_a_pair(fsurgeon, refuse):
    words = ("activations", "le.safetensors", *LENET, "--data", "digits.npz", "--subset", 2)
    done = fsurgeon(*words, "--against", "le.safetensors", "--layers", "conv*", "--units", "0-3",
                    "--picture", "a.png")  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    first, second = json.loads(done.stdout)["layers"]
    assert [first["layer"], second["layer"]] == ["conv1", "conv2"]
    assert first["checkpoints"][0]["size"] == [28, 28]
    assert [x["relative_difference"] for x in second["checkpoints"]] == [0, 0]
    assert "has no map of positions" in refuse(*words, "--layers", "fc1")


@pytest.mark.parametrize("method", ["tsne", "pca"])
@pytest.mark.usefixtures("digits")
def test_digits_lie_beside_their_like(fsurgeon, method):
    done = fsurgeon(
        "embed", "le.safetensors", *LENET, "--against", "le.safetensors", "--data", "digits.npz",
        "--split", "both", "--subset", 60, "--method", method, "--picture", "e.png", "--page",
        "e.html",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    content = json.loads(done.stdout)
    first, second = content["checkpoints"]
    assert len(content["labels"]) == 120
    assert content["splits"].count("train") == 60
    assert first["neighbours"] > (0.8 if method == "tsne" else 0.4)
    if method == "pca":
        assert np.allclose(first["points"], second["points"], atol=1e-3)
    assert "http" not in Path("e.html").read_text("utf-8").replace("http-equiv", "")


def test_embeddings_of_other_widths_are_turned_to_match():
    points = np.random.default_rng(0).normal(size=(20, 2))
    angle = 1.1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert np.allclose(_align(3 * points @ turn + 5, points), points)
    from filtersurgeon.data.data import DataSpec

    assert [x.split for x in both_splits(DataSpec("d"), "both")] == ["train", "test"]


@pytest.mark.usefixtures("digits")
def test_bad_embeddings_are_refused(refuse):
    words = ("embed", "le.safetensors", *LENET, "--data", "digits.npz")
    assert "did you mean tsne" in refuse(*words, "--method", "tsn")
    assert "at least 4 images" in refuse(*words, "--subset", 3)
    assert ".html" in refuse(*words, "--page", "e.png")


def test_blur_keeps_sums_and_matches_the_gaussian():
    from scipy.ndimage import gaussian_filter

    images = torch.zeros(2, 1, 15, 15, dtype=torch.float64)
    images[:, :, 7, 7] = 1
    found = random_transforms.blur(images, np.array([0.5, 0.0]))
    expected = gaussian_filter(images[0, 0].numpy(), 0.5, radius=2)
    assert np.allclose(found[0, 0], expected, atol=1e-9)
    assert torch.equal(found[1], images[1])


def test_turning_by_a_right_angle_and_rolling():
    images = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    turned = random_transforms.rotate(images, np.array([90.0, 0.0]), np.ones(2))
    quarter = [torch.rot90(images[0], k, (1, 2)) for k in (1, -1)]
    assert any(torch.allclose(turned[0], x, atol=1e-9) for x in quarter)
    assert torch.equal(turned[1], images[1])
    rolled = random_transforms.roll(images, np.array([1, 0]), np.array([-2, 0]))
    assert torch.equal(rolled[0], torch.roll(images[0], (1, -2), (1, 2)))


def test_chance_is_an_images_own():
    images = torch.randn(3, 3, 16, 16)
    together = random_transforms.RandomTransforms("full", [1, 2, 3])
    alone = random_transforms.RandomTransforms("full", [3])
    for _ in range(8):
        several, one = together(images), alone(images[2:])
    assert torch.allclose(several[2:], one, atol=1e-6)
    assert torch.equal(random_transforms.RandomTransforms("none", [1])(images), images)
    pulled = random_transforms.towards_data(images * 3 + 5)
    assert 5 > float(pulled.mean()) > 4.5
    with pytest.raises(OptionError, match="did you mean full"):
        random_transforms.check_regularizer("ful")


def test_colours_and_sheets():
    assert tones.signed(np.array([[-1.0, 0.0, 1.0]]))[0, 1].min() > 240
    assert tones.activation(np.array([[-1.0, 0.0, 1.0]])).tolist() == [
        [[64, 128, 255], [0, 0, 0], [255, 255, 255]]
    ]
    assert tones.opponent(np.zeros((3, 2, 2))).tolist() == [[[128] * 3] * 2] * 2
    tile = np.full((4, 4, 3), 7, np.uint8)
    page = np.asarray(draw_sheet([Row("t", [tile] * 5, list("abcde"))], tile=32, columns=3))
    wide = np.asarray(draw_sheet([Row("a title that is much wider than its picture", [tile])]))
    assert (page == 7).all(2).sum() == 5 * 32 * 32
    assert wide.shape[1] > 250  # the title is not cut off


@pytest.mark.parametrize("columns", [1, 3, 8])
@pytest.mark.parametrize("width", [24, 96, 160])
def test_labels_fit_below_their_pictures(columns, width):
    long = "496 a stocking that hangs at the mantelpiece of every house on a cold night: 26.4"
    label = "496 Christmas stocking: 26.4"
    for text in (label, long, "x" * 300, "7", ""):
        lines = sheet._broken(text, width)
        assert len(lines) <= 3
        assert all(sheet._length(line, 12) <= width for line in lines)
    assert " ".join(sheet._broken(label, 160)) == label
    assert sheet._broken(long, 160)[-1].endswith("26.4")
    assert sheet._broken("7", width) == ["7"]
    assert sheet._broken("", width) == []
    # Pixels: no label reaches into the next column, or out of the page.
    tile = np.full((8, 8, 3), 7, np.uint8)
    rows = [Row("", [tile] * columns, [label] * columns)]
    page = np.asarray(draw_sheet(rows, tile=width, columns=columns))
    assert page.shape[1] == 32 + columns * (width + 6) - 6
    ink = (page < 200).all(2)
    gaps = [16 + k * (width + 6) - 3 for k in range(1, columns)]
    assert not ink[:, [2, *gaps, -3]].any()
    below = ink[16 + width + 2 :, 16 : 16 + width]
    assert below.any()
    assert not page[-8:].min() < 200
    # Labels of one line need as much room as ever.
    short = draw_sheet([Row("", [tile], ["a"])], tile=width)
    assert short.height == 32 + width + 18


def test_pictures_must_be_images(tmp_path):
    from filtersurgeon.see.pictures import open_pictures

    (tmp_path / "x.png").write_text("no image")
    with pytest.raises(DataError, match="not an image"):
        open_pictures(network(tiny_net()), [str(tmp_path / "x.png")])
    notes: list[str] = []
    Image.new("RGB", (8, 8), (255, 0, 0)).save(tmp_path / "y.png")
    found = open_pictures(network(tiny_net()), [str(tmp_path / "y.png")], tell=notes.append)
    assert notes == []  # of the network's own size and mode: nothing to tell
    assert found[0].pixels[0, 0].tolist() == [255, 0, 0]
