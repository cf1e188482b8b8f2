"""ProxyGrad: gradients leak, outputs do not change."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from learning import stripes, tiny_net
from small_data import LENET, ZOO
from small_data import digits as digits  # a fixture
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError, OptionError
from filtersurgeon.networks.modules.rectifier_kinds import Shape, check_kind
from filtersurgeon.networks.modules.rectifiers import (
    ProxyGradReLU,
    Rectifier,
    calls_functions,
    check_met,
    rectified,
    rectify,
    swap_modules,
)
from filtersurgeon.see.ascent import AscentSettings, ascend

torch.set_num_threads(1)


def test_the_backward_pass_of_table_5_2():
    x = torch.tensor([[3.0, 2, -1], [-1, 1, 3], [-2, -3, 4]], requires_grad=True)
    incoming = torch.tensor([[1.0, -1, -2], [1, 2, 3], [2, -1, -3]])
    kept = incoming.clone()
    y = ProxyGradReLU(0.1)(x)
    gradient = torch.autograd.grad(y, x, incoming)[0]
    expected = torch.tensor([[1, -1, -0.2], [0.1, 2, 3], [0.2, -0.1, -3]])
    assert torch.equal(y, functional.relu(x))
    assert torch.allclose(gradient, expected)
    assert torch.equal(incoming, kept)  # another reader of the gradient sees what it was


def test_one_gradient_read_twice_is_not_changed():
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    y = x * 1.0
    (ProxyGradReLU(0.5)(y).sum() + y.sum()).backward()
    assert x.grad.tolist() == [1.5, 2.0]


@pytest.mark.parametrize(
    ("shape", "own"),
    [
        (Shape(), functional.relu),
        (Shape(0.3, 0.3), lambda x: functional.leaky_relu(x, 0.3)),
        (Shape(cap=6.0), functional.relu6),
    ],
)
def test_equal_slopes_are_the_ordinary_rectifiers(shape, own):
    x = torch.linspace(-9, 9, 41, requires_grad=True)
    for function in (own, lambda x: rectify(x, shape)):
        y = function(x)
        result = (y.detach(), torch.autograd.grad(y.sum(), x)[0])
        first = result if function is own else first  # noqa: F821
    assert torch.equal(result[0], first[0])
    assert torch.equal(result[1], first[1])


def white_image(function, start, **settings) -> torch.Tensor:
    """Maximise a toy of section 5.1 from an image in -1..1, clipped there."""

    class Toy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sum = nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.sum(function(x).flatten(1).sum(1, keepdim=True))

    x, toy = start, Toy()
    for _ in range(300):
        x = ascend(toy, "sum", [0], x, AscentSettings(1, 0.5, regularize="none", **settings))
        x = x.clamp(-1, 1)
    return x


def test_the_toy_problems_of_table_5_1():
    """ReLU: sparse gradients; Leaky ReLU: local maxima; ProxyGrad with slope 1: white images."""
    start = torch.rand(1, 1, 6, 6, generator=torch.manual_seed(0)) * 2 - 1
    dark = start < 0

    def sparse(x):
        return functional.relu(x)

    def race(x):
        return functional.leaky_relu(x, 0.1)

    def local(x):
        return functional.leaky_relu(x, 0.1) + functional.leaky_relu(-0.2 * x, 0.1)

    found = white_image(sparse, start)
    assert (found[~dark] == 1).all()
    assert torch.equal(found[dark], start[dark])
    assert (white_image(sparse, start, activation="leaky-relu", slope=0.1) == 1).all()
    assert (white_image(sparse, start, activation="proxygrad", slope=0.1) == 1).all()

    assert (white_image(race, start) == 1).all()
    once = ascend(lambda_net(race), "0", [0], start, AscentSettings(1, 1.0, regularize="none"))
    gain = once - start
    assert torch.allclose(gain[~dark].mean(), 10 * gain[dark].mean())
    assert (gain > 0).all()

    stuck = white_image(local, start)
    assert (stuck[~dark] == 1).all()
    assert (stuck[dark] == -1).all()
    assert (white_image(local, start, activation="proxygrad", slope=0.9) == 1).all()


def lambda_net(function) -> nn.Module:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x).flatten(1).sum(1, keepdim=True)

    return nn.Sequential(Sum())


def test_a_convolution_gets_stuck_and_proxygrad_does_not():
    """The last row of Table 5.1, with the border left out of the picture."""
    start = torch.rand(1, 1, 8, 8, generator=torch.manual_seed(1)) * 2 - 1
    kernel = torch.tensor([[[[0.0, 0, 0], [1, 0, -0.2], [0, 0, 0]]]])

    def toy(x):
        return functional.leaky_relu(functional.conv2d(x, kernel), 0.1)

    inner = (slice(None), slice(None), slice(1, -1), slice(0, -2))
    stuck = white_image(toy, start)[inner]
    solved = white_image(toy, start, activation="proxygrad", slope=0.9)[inner]
    assert (stuck < 0).any()
    assert (solved[..., :-2] > 0).all()


class Calls(nn.Module):
    """Rectifies by layers, functions and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.relu, self.six = nn.ReLU(inplace=True), nn.ReLU6()
        self.leaky, self.gelu = nn.LeakyReLU(0.3), nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.relu(x.clone()) + self.six(x) + self.leaky(x) + functional.relu(x)
        return a + x.relu() + x.clamp(min=0) + x.clone().relu_() + self.gelu(x)


def test_every_way_to_call_a_rectifier_is_met_and_outputs_stay():
    model, x = Calls(), torch.randn(50, requires_grad=True)
    with rectified("proxygrad", 0.25) as mode:
        y = model(x)
    assert torch.equal(y, model(x))
    assert mode.met == {"relu": 4, "hardtanh": 1, "leaky_relu": 1, "clamp": 1}
    with torch.no_grad():
        expected = (
            7 * 0.25 + torch.autograd.functional.jacobian(functional.gelu, x).diagonal()
        )  # six own rectifiers, whatever their forward slope
    gradient = torch.autograd.grad(y.sum(), x)[0]
    assert torch.allclose(gradient[x < 0], expected[x < 0], atol=1e-6)


def test_layers_are_swapped_and_functions_noticed():
    model = Calls()
    assert calls_functions(model, torch.randn(3))
    counts = swap_modules(model, "leaky-relu", 0.2)
    assert counts == {"ReLU": 1, "ReLU6": 1, "LeakyReLU": 1, "GELU": 1}
    assert isinstance(model.six, Rectifier)
    assert model.six.shape == Shape(0.2, 0.2, 6.0)
    assert not calls_functions(nn.Sequential(nn.ReLU(), nn.Sigmoid()), torch.randn(3))
    with rectified("proxygrad", 0.1) as mode:
        torch.sigmoid(torch.zeros(1))
    with pytest.raises(ArchitectureError, match="no rectifier"):
        check_met(mode, "it")
    for kind, slope in (("relux", 0.1), ("relu", -0.1), ("relu", 2)):
        with pytest.raises(OptionError):
            check_kind(kind, slope)


def test_a_converted_checkpoint_runs_as_it_says(tmp_path):
    path = tmp_path / "c.safetensors"
    arch = "factory:examples.zoo.networks:lenet5"
    own = fs.load(ZOO / "lenet5_mnist.safetensors", arch=arch)
    x = torch.randn(4, 1, 28, 28)
    plain = fs.build(own)
    for kind, differs in (("leaky-relu", True), ("proxygrad", False), ("relu", False)):
        fs.save(fs.convert(own, activation=kind, slope=0.3), path, force=True)
        again = fs.load(path, arch=arch)
        assert again.history[-1].verb == "convert"
        model = fs.build(again)
        assert torch.equal(model(x), plain(x)) is not differs
        inputs = x.clone().requires_grad_()
        slopes = torch.autograd.grad(model(inputs).sum(), inputs)[0]
        before = torch.autograd.grad(plain(inputs).sum(), inputs)[0]
        assert torch.allclose(slopes, before) is (kind == "relu")
    twice = fs.convert(again, activation="leaky-relu", slope=0.3)
    assert len(twice.structure) == 1


@pytest.mark.parametrize("functions", [False, True])
def test_converted_networks_are_decoded_and_leak_anew(functions):
    from filtersurgeon.networks.modules.rectifiers import swap_calls
    from filtersurgeon.see.decoding import decode_units
    from filtersurgeon.see.linearise import find_canvas

    def network() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()

    plain, converted = network(), network()
    (swap_calls if functions else swap_modules)(converted, "proxygrad", 0.5)
    x = torch.randn(2, 1, 9, 9, requires_grad=True)
    assert torch.equal(plain(x), converted(x))
    decoded = [
        decode_units(find_canvas(m, "2", (1, 9, 9), "nearest"), [0]).filters
        for m in (plain, converted)
    ]
    assert np.array_equal(*decoded)
    with rectified("proxygrad", 0.25) as mode:
        other = torch.autograd.grad(converted(x).sum(), x)[0]
    with rectified("proxygrad", 0.25):
        expected = torch.autograd.grad(plain(x).sum(), x)[0]
    assert torch.allclose(other, expected)
    assert mode.met == {"rectify": 1}


def test_convert_by_layers_on_the_command_line(fsurgeon, refuse, tmp_path):
    from safetensors.torch import save_file

    from filtersurgeon.checkpoint.vision import import_timm

    torch.manual_seed(0)
    model = import_timm().create_model("resnet10t", num_classes=5)
    save_file(model.state_dict(), tmp_path / "r.safetensors", {"architecture": "timm:resnet10t"})
    source, target = tmp_path / "r.safetensors", tmp_path / "c.safetensors"
    done = fsurgeon("convert", source, "--activation", "proxygrad", "-o", target)
    assert done.returncode == 0, done.stderr.decode()
    checkpoint = fs.load(target)
    assert checkpoint.structure[0] == {
        "edit": "activation", "kind": "proxygrad", "slope": 0.1, "functions": False
    }  # fmt: skip
    built = fs.build(checkpoint)
    assert any(isinstance(m, Rectifier) for m in built.modules())
    assert not any(isinstance(m, nn.ReLU) for m in built.modules())
    assert "did you mean proxygrad" in refuse("convert", source, "--activation", "proxigrad")


def test_training_with_proxygrad_changes_gradients_only():
    from filtersurgeon.learn.session import TrainingData
    from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
    from filtersurgeon.learn.train import train

    ends = []
    for slope in (0.0, 0.3):
        model = tiny_net()
        data = TrainingData(stripes(), None, 2)
        train(model, data, TrainingRecipe(proxygrad=slope), RunSettings(1, 16, device="cpu"))
        ends.append(model.state_dict()["stem.weight"])
    assert not torch.equal(*ends)
    with pytest.raises(OptionError, match="proxygrad"):
        train(tiny_net(), data, TrainingRecipe(proxygrad=1.5), RunSettings(1, device="cpu"))


@pytest.mark.usefixtures("digits")
def test_tune_proxygrad_is_in_the_history(fsurgeon):
    done = fsurgeon(
        "tune", "le.safetensors", *LENET, "--data", "digits.npz", "--subset", 64, "--epochs", 1,
        "--proxygrad", 0.2, "--labels", "shuffled", "--noisy-copies", 1, "--device", "cpu",
        "-o", "t.safetensors", "-q",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    options = fs.load("t.safetensors").history[-1].options
    assert options["proxygrad"] == 0.2
    assert (options["labels"], options["noisy_copies"]) == ("shuffled", 1)


def test_shuffled_labels_and_noisy_copies_stay():
    from filtersurgeon.data.generated import NOISE, LabelNoise, add_label_noise

    images = stripes(40)
    mixed = add_label_noise(images, LabelNoise(shuffled=True), 2, seed=3)
    labels = [images[i][1] for i in range(40)]
    assert [mixed[i][1] for i in range(40)] != labels
    assert sorted(mixed[i][1] for i in range(40)) == sorted(labels)
    noisy = add_label_noise(images, LabelNoise(copies=2), 7, seed=3)
    assert len(noisy) == 120
    assert torch.equal(noisy[5][0], images[5][0])
    first, again = noisy[45], noisy[45]
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    noise = torch.stack([noisy[40 + i][0] - images[i][0] for i in range(40)])
    assert float(noise.std()) == pytest.approx(NOISE, rel=0.03)
    assert not torch.equal(noisy[45][0], noisy[85][0])
    assert len({noisy[i][1] for i in range(40, 120)}) > 2
    with pytest.raises(OptionError):
        add_label_noise(images, LabelNoise(copies=-1), 2, seed=0)


def test_proxygrad_reaches_more_on_fifty_units_of_a_real_network():
    """After 100 steps, measured by the network as it is."""
    from filtersurgeon.see.maximizing import maximize

    arch = "factory:examples.zoo.networks:lenet5"
    checkpoint = fs.load(ZOO / "lenet5_mnist.safetensors", arch=arch)
    found = {
        kind: maximize(
            checkpoint,
            AscentSettings(100, activation=kind, slope=0.1, regularize="none"),
            layers=["fc2"],
            units="0-49",
            batch_size=50,
        )[0]
        for kind in ("relu", "proxygrad")
    }
    assert len(found["relu"].after) == 50
    assert found["proxygrad"].after.mean() > found["relu"].after.mean() > 0
    assert np.array_equal(found["proxygrad"].before, found["relu"].before)


@pytest.mark.usefixtures("digits")
def test_maximize_as_a_command(fsurgeon, refuse):
    words = ("maximize", "le.safetensors", *LENET, "--units", "0-2", "--steps", 3)
    done = fsurgeon(*words, "--picture", "m.png")
    assert done.returncode == 0, done.stderr.decode()
    (layer,) = json.loads(done.stdout)["layers"]
    assert layer["layer"] == "fc3"
    assert layer["mean"] > np.mean(layer["before"])
    assert "did you mean proxygrad" in refuse(*words, "--activation", "proxigrad")


def test_images_do_not_depend_on_their_batch():
    from filtersurgeon.see.ascent import first_images
    from filtersurgeon.see.maximizing import maximize

    checkpoint = fs.load(
        ZOO / "lenet5_digits.safetensors", arch="factory:examples.zoo.networks:lenet5"
    )
    settings = AscentSettings(5, regularize="full")
    one = maximize(checkpoint, settings, units="0-3", batch_size=4)[0]
    two = maximize(checkpoint, settings, units="0-3", batch_size=3)[0]
    assert np.allclose(one.images, two.images, atol=1e-4)
    assert one.recognised is not None
    assert np.array_equal(first_images((1, 4, 4), (0,), (1,), [5]), first_images(
        (1, 4, 4), (0,), (1,), [4, 5])[1:])  # fmt: skip
