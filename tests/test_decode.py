"""Decoding is the recursion of the paper, and the gradient of the linearised network."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from small_data import LENET, ZOO
from small_data import digits as digits  # a fixture
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.data.labels import imagenet_names
from filtersurgeon.errors import ArchitectureError, LayerError, OptionError
from filtersurgeon.see.decoding import DecodeSettings, decode_units
from filtersurgeon.see.linear_rules import pool, unpool
from filtersurgeon.see.linearise import check_linear, find_canvas, linearise

torch.set_num_threads(1)
MODES = ("nearest", "bilinear", "bicubic")
FACTORY = "factory:examples.zoo.networks:"


def lenet() -> fs.Checkpoint:
    return fs.load(ZOO / "lenet5_mnist.safetensors", arch=f"{FACTORY}lenet5")


def upsampled(x: torch.Tensor, mode: str) -> torch.Tensor:
    aligned = {} if mode == "nearest" else {"align_corners": False}
    return functional.interpolate(x, scale_factor=2, mode=mode, **aligned)


@pytest.mark.parametrize("mode", MODES)
def test_decoding_is_the_recursion_of_transposed_convolutions(mode):
    weights = {name: tensor.double() for name, tensor in lenet().state_dict().items()}
    found = fs.decode(lenet(), DecodeSettings(["conv1", "conv2", "fc3"], "all", mode))
    first, second, classes = (torch.from_numpy(layer.filters) for layer in found)

    one, two = weights["conv1.weight"], weights["conv2.weight"]
    top = weights["fc3.weight"] @ weights["fc2.weight"] @ weights["fc1.weight"]
    below = functional.conv_transpose2d(upsampled(top.view(10, 16, 5, 5), mode), two)
    whole = functional.conv_transpose2d(upsampled(below, mode), one)

    assert (first - one).abs().max() == 0
    assert (second - functional.conv_transpose2d(upsampled(two, mode), one)).abs().max() < 1e-10
    assert (classes - whole[..., 2:-2, 2:-2]).abs().max() < 1e-10  # conv1 pads by two
    assert [layer.exact for layer in found] == [True, True, False]


def test_pooling_is_the_adjoint_of_upsampling():
    torch.manual_seed(0)
    for mode in MODES:
        for kernel, stride, padding, size in ((2, 2, 0, 9), (3, 2, 1, 12), (3, 2, 0, 11)):
            sides = ((size + 2 * padding - kernel) // stride + 1,) * 2
            x = torch.randn(1, 2, size, size, dtype=torch.float64, requires_grad=True)
            y = torch.randn(1, 2, *sides, dtype=torch.float64)
            pooled = pool(x, sides, mode, (kernel,) * 2, (stride,) * 2, (padding,) * 2)
            offset = ((kernel - stride + 1) // 2 - padding,) * 2
            large = unpool(y, mode, (stride,) * 2, offset, (size, size))
            assert torch.allclose((pooled * y).sum(), (x * large).sum(), atol=1e-12)
            assert torch.allclose(torch.autograd.grad(pooled, x, y)[0], large, atol=1e-12)


class Linear(nn.Module):
    """A residual network, written linear by hand."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.m = model

    def norm(self, x: torch.Tensor, bn: nn.BatchNorm2d) -> torch.Tensor:
        scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
        return x * scale.view(1, -1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        m = self.m
        x = self.norm(functional.conv2d(x, m.conv1.weight, padding=1), m.bn1)
        for block in (*m.layer1, *m.layer2, *m.layer3):
            out = functional.conv2d(x, block.conv1.weight, None, block.stride, 1)
            out = self.norm(out, block.bn1)
            out = self.norm(functional.conv2d(out, block.conv2.weight, padding=1), block.bn2)
            skip = x[:, :, :: block.stride, :: block.stride]
            if block.padding:
                skip = functional.pad(skip, (0, 0, 0, 0, block.padding, block.padding))
            x = out + skip
        return x.mean((2, 3)) @ m.linear.weight.T


def test_decoding_is_the_gradient_of_a_linear_residual_network():
    checkpoint = fs.load(ZOO / "resnet20_cifar10.safetensors", arch=f"{FACTORY}cifar_resnet20")
    found = fs.decode(checkpoint, DecodeSettings(units="0,7"))[0]
    model = Linear(fs.build(checkpoint).double())
    x = torch.zeros(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    for place, unit in enumerate((0, 7)):
        gradient = torch.autograd.grad(model(x)[0, unit], x)[0][0]
        assert np.abs(gradient.numpy() - found.filters[place]).max() < 1e-10


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "skresnet18"]
)
def test_real_architectures_are_linearised_and_proven_so(name):
    from filtersurgeon.checkpoint.vision import import_timm

    torch.manual_seed(0)
    model = import_timm().create_model(name).eval()
    canvas = find_canvas(model, model.default_cfg["classifier"], (3, 64, 64), "bilinear")
    found = decode_units(canvas, [1])
    assert found.filters.shape[:2] == (1, 3)
    assert np.abs(found.filters).max() > 0


def test_what_has_no_linear_part_is_refused_by_name():
    class Squares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).pow(2).amax((2, 3))

    model = nn.Sequential(Squares())
    with pytest.raises(ArchitectureError, match="nothing linear stands for pow, amax"):
        find_canvas(model, "0", (1, 8, 8), "nearest")
    network = linearise(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh()))
    check_linear(network, network, torch.zeros(1, 1, 5, 5, dtype=torch.float64), "it")


def test_gates_are_one_and_attention_is_uniform():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y = y * torch.sigmoid(self.b(x))  # a gate of the same size
            return y * y.mean((2, 3), keepdim=True).sigmoid().expand_as(y)

    torch.manual_seed(0)
    model = Gated()
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    expected = functional.conv2d(x, model.a.weight.double())
    assert torch.allclose(linearise(model)(x), expected)


def test_the_window_is_the_receptive_field():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(2, 2, (1, 5), padding=(0, 2))
    )
    canvas = find_canvas(model, "2", (1, 32, 32), "nearest")
    assert (canvas.size, canvas.exact, canvas.stride) == ((1, 4, 12), True, (2, 2))


@pytest.mark.usefixtures("digits")
def test_class_filters_of_digits_tell_digits_apart(fsurgeon):
    """Alone, with the mean image off, they are far above chance; the error grows with depth."""
    layers = [word for name in ("conv1", "conv2", "fc3") for word in ("--layers", name)]
    done = fsurgeon(
        "decode", "le.safetensors", *LENET, "--data", "digits.npz", "--error", "--top", 2, *layers,
        "--picture", "d.png", "--filters", "d.safetensors", "--threshold", 0.5,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    content = json.loads(done.stdout)
    first, second, last = content["layers"]
    assert content["schema"] == "filtersurgeon.decoding/1"
    assert first["error"] < second["error"] < last["error"] < 0.3
    assert last["accuracy"] > 0.4
    assert np.array(last["top_network"]).shape == (10, 2)
    tensors = load_file("d.safetensors")
    assert tensors["conv2"].shape == (16, 1, 14, 14)
    assert tensors["fc3"].shape == (10, 1, 28, 28)
    assert min(Image.open("d.png").size) > 300


@pytest.mark.usefixtures("digits")
def test_eq_3_by_hand():
    """The error is that of sliding the decoded filter over the image, at the unit's stride."""
    from filtersurgeon.data.data import DataSpec, open_data
    from filtersurgeon.learn.networks import open_network

    checkpoint = fs.load("le.safetensors", arch=f"{FACTORY}lenet5")
    spec = DataSpec("digits.npz", subset=20)
    found = fs.decode(checkpoint, DecodeSettings(["conv2"], upsample="bicubic"), data=spec)[0]
    network = open_network(checkpoint)
    images = open_data(spec, network.preprocessing, 10)
    model, errors = network.model.double(), []
    for place in range(len(images)):
        x = images[place][0][None].double()
        with torch.no_grad():
            own = model.conv2(functional.max_pool2d(functional.relu(model.conv1(x)), 2))
        slid = functional.conv2d(
            functional.pad(x, [2] * 4), torch.from_numpy(found.filters), stride=2
        )
        a, b = ((r - r.min()) / (r.max() - r.min()) for r in (own, slid))
        errors.append(float((a - b).square().mean()))
    assert found.fit.error == pytest.approx(np.mean(errors), rel=1e-9)
    assert found.fit.error_deviation == pytest.approx(np.std(errors), rel=1e-9)


class Brightness(nn.Module):
    """Channel k is the image times a planted factor, so that the responses are known."""

    FACTORS = (1.0, -2.0, 5.0, 3.0)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1, bias=False)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor(self.FACTORS).view(4, 1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(x).mean((2, 3)))


def test_units_are_sorted_by_their_highest_activation(monkeypatch):
    from filtersurgeon.see import decoding

    images = torch.rand(5, 1, 6, 6, generator=torch.manual_seed(0)) - 0.5
    data = [(image, 0) for image in images]
    options = {"data": data, "preprocess": {"input_size": (1, 6, 6)}}
    model = Brightness().eval()

    def find(**settings):
        how = DecodeSettings(["conv"], sort="response", batch_size=2, **settings)
        return fs.decode(model, how, example_inputs=images[:1], **options)[0]

    low, high = float(images.min()), float(images.max())
    highest = [max(f * low, f * high) for f in Brightness.FACTORS]
    order = sorted(range(4), key=lambda unit: -highest[unit])
    found = find()
    assert found.units == tuple(order)
    assert found.fit.responses == pytest.approx([highest[unit] for unit in order], rel=1e-6)
    assert found.filters[:, 0, 0, 0] == pytest.approx([Brightness.FACTORS[u] for u in order])
    assert find(units="0,1").units == tuple(u for u in order if u < 2)
    monkeypatch.setattr(decoding, "_MOST", 2)
    assert find().units == tuple(order[:2])  # of all units, not of the first ones
    with pytest.raises(OptionError, match="needs images"):
        fs.decode(model, DecodeSettings(sort="response"), example_inputs=images[:1])
    with pytest.raises(OptionError, match="did you mean response"):
        fs.decode(model, DecodeSettings(sort="respons"), **options, example_inputs=images[:1])


def test_classes_have_their_names(tmp_path):
    from safetensors.torch import save_file

    names = [f"digit {n}" for n in range(10)]
    cfg = {**lenet().pretrained_cfg, "label_names": names}
    save_file(lenet().state_dict(), tmp_path / "m.safetensors", {"pretrained_cfg": json.dumps(cfg)})
    checkpoint = fs.load(tmp_path / "m.safetensors", arch=f"{FACTORY}lenet5")
    conv, found = fs.decode(checkpoint, DecodeSettings(["conv1", "fc3"], "2,0"))
    assert found.names == ("digit 2", "digit 0")
    assert found.labels() == ["2 digit 2", "0 digit 0"]
    assert found.to_json()["names"] == ["digit 2", "digit 0"]
    assert (conv.names, conv.labels()) == ((), ["2", "0"])
    assert imagenet_names(10) == ()
    assert imagenet_names(1000)[207] == "golden retriever"


def test_blocks_are_square_and_so_is_their_page():
    from filtersurgeon.plots.blocks import draw_blocks, square_columns
    from filtersurgeon.plots.sheet import Row

    assert [square_columns(n) for n in (1, 4, 5, 16, 50, 64)] == [1, 2, 3, 4, 8, 8]
    white = np.full((4, 4, 3), 255, np.uint8)
    rows = [Row(str(n), [white] * n, ["x"] * n) for n in (16, 16, 16, 16)]
    ratio = (page := draw_blocks(rows)).width / page.height
    assert 0.7 < ratio < 1.4
    one, two = (draw_blocks(rows[:4], across=n) for n in (1, 2))
    assert two.width == 2 * one.width
    assert two.height * 2 == one.height
    assert draw_blocks([Row("none", [])]).width == 96


@pytest.mark.usefixtures("digits")
def test_mistakes_are_named(refuse):
    words = ("decode", "le.safetensors", *LENET)
    assert "--sort response" in refuse(*words, "--data", "digits.npz")
    assert "did you mean conv2 or conv1" in refuse(*words, "--layers", "conv3")
    assert "its 10 units are 0 to 9" in refuse(*words, "--units", "10")
    assert "bilinear" in refuse(*words, "--upsample", "biliner")
    assert "--data" in refuse(*words, "--error")
    assert ".png" in refuse(*words, "--picture", "d.svg")


def test_units_and_layers():
    from filtersurgeon.see.layers import choose_layers, read_units

    assert read_units("0,3,8-9", 10, "x") == [0, 3, 8, 9]
    assert read_units(None, 100, "x", most=3) == [0, 1, 2]
    assert len(read_units("all", 100, "x")) == 100
    for text in ("a", "3-", "", "-"):
        with pytest.raises(OptionError):
            read_units(text, 10, "x")
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Linear(1, 1))
    assert choose_layers(model, ["*"]) == ["0", "2"]
    assert choose_layers(model, ["1"]) == ["1"]
    assert choose_layers(model, ["!0"]) == ["2"]
    with pytest.raises(LayerError, match="no layer matches"):
        choose_layers(model, ["7"])
