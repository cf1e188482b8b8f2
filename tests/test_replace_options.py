"""Replacement without offsets, with several banks, with folded scales, and its packing."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_data import digits as digits  # a fixture
from small_data import write_network
from torch import nn

import filtersurgeon as fs
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.graph.follow import find_followers
from filtersurgeon.graph.graph import trace_shapes


def _bank(size: int, members: int = 5, seed: int = 9, name: str = "mine") -> fs.FilterBank:
    kernels = np.random.default_rng(seed).standard_normal((members, size, size)) + 0.3
    return fs.FilterBank(name, kernels, tuple(f"m{k}" for k in range(members)))


def test_without_offset_kernels_are_the_closest_multiples(model, tensors):
    bank = fs.load_bank("dog8").at((5, 5))
    after = fs.replace(fs.load(model), bank="dog8", bias="drop")["blocks.10.dw.weight"].array()
    for kernel, found in zip(tensors["blocks.10.dw.weight"][:, 0], after[:, 0], strict=True):
        fits = []
        for member in bank.kernels:
            scale = np.linalg.lstsq(member.reshape(-1, 1), kernel.ravel(), rcond=None)[0][0]
            fits.append(scale * member)
        best = min(fits, key=lambda fit: np.linalg.norm(fit - kernel))
        np.testing.assert_allclose(found, best, atol=1e-6)


def test_each_size_takes_its_bank(model):
    reports = []
    edited = fs.replace(
        fs.load(model), bank=[_bank(5), "dog8"], layers=["blocks"], observe=reports.append
    )
    for name in edited:
        list(edited[name].blocks())
    assert {report.name: report.bank for report in reports} == {
        "blocks.2.dw": "dog8", "blocks.10.dw": "mine"
    }  # fmt: skip
    assert edited.history[-1].options["bank"] == ["mine", "dog8"]
    assert list(edited.history[-1].resources) == ["mine"]
    with pytest.raises(OptionError, match="mine is used by no layer"):
        fs.replace(fs.load(model), bank=["dog8", _bank(5)])


@pytest.mark.parametrize("options", [{"bias": "none"}, {"fold": True, "all_spatial": True}])
def test_options_that_cannot_be(model, options):
    with pytest.raises(OptionError):
        fs.replace(fs.load(model), **options)


def test_degenerate_members_are_noted(model):
    kernels = np.concatenate([_bank(3).kernels, np.ones((1, 3, 3))])
    bank = fs.FilterBank("b", kernels, tuple("abcdef"))
    edited = fs.replace(fs.load(model), bank=bank)
    assert any("member f is constant" in note for note in edited.notes)


# Folding


class Mixed(nn.Module):
    """Depthwise convolutions whose scale goes to a normalisation, a weight, or through a ReLU."""

    def __init__(self, norm: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.dw1 = nn.Conv2d(6, 12, 3, padding=1, groups=6)  # two kernels per channel
        self.bn1 = nn.BatchNorm2d(12) if norm else nn.GroupNorm(3, 12)
        self.act = nn.ReLU6(inplace=True)
        self.dw2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.drop = nn.Dropout(0.5)
        self.pw = nn.Conv2d(12, 8, 1, groups=2)
        self.dw3 = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8 * 4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn1(self.dw1(self.stem(x))))
        x = self.pw(self.drop(self.dw2(x)))
        x = nn.functional.adaptive_avg_pool2d(torch.relu(self.dw3(x)), 2)
        return self.head(x.flatten(1))


def _network(**options: object) -> tuple[Mixed, fs.Checkpoint]:
    torch.manual_seed(0)
    model = Mixed(**options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 1e-7, 2)
            nn.init.normal_(module.weight)
    with torch.no_grad():
        model.dw2.weight[3] = 0.25  # a constant kernel has no scale
        model.dw3.weight[1] = 0
    tensors = {
        name: fs.StoredTensor.from_array(value.numpy(), "F32")
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
    return model, fs.Checkpoint(
        tensors, architecture="factory:tests.test_replace_options:Mixed",
        pretrained_cfg={"input_size": [3, 9, 9]},
    )  # fmt: skip


def _outputs(checkpoint: fs.Checkpoint) -> np.ndarray:
    model = Mixed().eval()
    state = {name: tensor.clone() for name, tensor in checkpoint.state_dict().items()}
    model.load_state_dict(state, strict=False)
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return model(images).numpy()


@pytest.mark.parametrize("bias", ["keep", "drop"])
@pytest.mark.parametrize("bank", ["dog8", "mine"])
def test_folding_keeps_outputs_and_leaves_members(bias, bank):
    _, checkpoint = _network()
    bank = _bank(3) if bank == "mine" else fs.load_bank("dog8").at((3, 3))
    plain = fs.replace(checkpoint, bank=bank, bias=bias)
    folded = fs.replace(checkpoint, bank=bank, bias=bias, fold=True)
    one, two = _outputs(plain), _outputs(folded)
    assert np.linalg.norm(two - one) < 1e-5 * np.linalg.norm(one)
    for name, signed in (("dw1", False), ("dw2", False), ("dw3", True)):
        before = checkpoint[f"{name}.weight"].array().reshape(-1, 9)
        kernels = folded[f"{name}.weight"].array().reshape(-1, 9)[np.ptp(before, axis=1) > 0]
        gaps = kernels[:, None] - bank.kernels.reshape(1, -1, 9)
        if signed:  # a ReLU passes positive factors only
            other = kernels[:, None] + bank.kernels.reshape(1, -1, 9)
            gaps = np.concatenate([gaps, other], axis=1)
        spread = np.ptp(gaps, axis=2) if bias == "keep" else np.abs(gaps).max(axis=2)
        assert spread.min(axis=1).max() < 1e-5
    assert any("folding changed the outputs" in note for note in folded.notes)


def _find_followers(model: nn.Module, layer: str, size: tuple[int, ...]) -> None:
    find_followers(model, trace_shapes(model.eval(), size), [layer])


def test_a_normalisation_over_channels_is_refused_by_name():
    with pytest.raises(LayerError, match=r"layer dw1: .* bn1 \(GroupNorm\)"):
        _find_followers(Mixed(norm=False), "dw1", (3, 9, 9))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.pw = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dw(x)
        return x + self.pw(x)


class Gelu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dw = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.pw = nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pw(nn.functional.gelu(self.dw(x)))


@pytest.mark.parametrize(("network", "match"), [(Residual, "2 operators"), (Gelu, "gelu")])
def test_what_a_scale_does_not_pass_is_named(network, match):
    with pytest.raises(LayerError, match=match):
        _find_followers(network(), "dw", (4, 9, 9))


def test_a_wrong_fold_would_not_be_written(monkeypatch):
    """The comparison of outputs must be able to fail."""
    _, checkpoint = _network()
    monkeypatch.setattr("filtersurgeon.transforms._folding._per_column", lambda *_: 1.001)
    with pytest.raises(LayerError, match="folding would change the outputs"):
        fs.replace(checkpoint, bank="dog8", fold=True)


def test_folding_a_convnext_is_refused(refuse, tmp_path):
    message = refuse(
        "replace", "examples/zoo/convnext_cifar10.safetensors", "--fold", "-o",
        tmp_path / "out.safetensors",
        "--factory", "examples.zoo.networks:convnext_small_images",
    )  # fmt: skip
    assert "stage1.0.norm (LayerNorm)" in message


# Packing


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16", "F64"])
@pytest.mark.parametrize("bias", ["keep", "drop"])
@pytest.mark.parametrize("size", [3, 7])
def test_packing_by_a_bank_is_bit_for_bit_and_of_the_stated_size(dtype, bias, size):
    rng = np.random.default_rng(size)
    weights = rng.standard_normal((300, 1, size, size)) + 10 * rng.standard_normal((300, 1, 1, 1))
    weights[7] = 0.0
    tensors = {
        "dw.weight": fs.StoredTensor.from_array(weights, dtype),
        "pw.weight": fs.StoredTensor.from_array(rng.standard_normal((300, 300)), dtype),
    }
    bank = _bank(size, members=6)
    replaced = fs.replace(fs.Checkpoint(tensors), bank=bank, bias=bias)
    packed = fs.pack(replaced, bank=bank)
    number = 8 if dtype == "F64" else 4
    expected = 300 * (1 + number * (2 if bias == "keep" else 1)) + 6 * size * size * 8
    assert packed.nbytes - tensors["pw.weight"].nbytes == expected
    restored = fs.unpack(packed)
    assert list(restored) == list(replaced)
    for name in replaced:
        assert bytes(restored[name].raw()) == bytes(replaced[name].raw())
        assert restored[name].dtype == replaced[name].dtype
        assert restored[name].shape == replaced[name].shape


def test_folded_networks_pack_smaller():
    _, checkpoint = _network()
    bank = _bank(3, members=2)
    folded = fs.replace(checkpoint, bank=bank, fold=True, layers=["dw1"])
    packed = fs.pack(folded, bank=bank)
    assert packed["dw1.weight.index"].shape == packed["dw1.weight.offset"].shape == (12,)
    assert "dw1.weight.scale" not in packed
    assert bytes(fs.unpack(packed)["dw1.weight"].raw()) == bytes(folded["dw1.weight"].raw())


def test_a_file_of_banks_round_trips_through_the_commands(model, fsurgeon, refuse, tmp_path):
    small, packed, back = (tmp_path / f"{n}.safetensors" for n in "rpb")
    for words in (("replace", model, "-b", "dct-3", "-o", small),
                  ("pack", small, "-b", "dct-3", "-o", packed),
                  ("unpack", packed, "-o", back)):  # fmt: skip
        done = fsurgeon(*words)
        assert done.returncode == 0, done.stderr
    one, two = load_file(small), load_file(back)
    assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in two.items()}
    inspected = json.loads(fsurgeon("inspect", packed).stdout)["packed"]
    assert [layer["form"] for layer in inspected["layers"]] == ["linear", "linear"]
    assert "fsurgeon unpack" in refuse("replace", packed, "-o", tmp_path / "x.safetensors")
    unpacked = refuse("pack", model, "-b", "dog8", "-o", tmp_path / "x.safetensors")
    assert "fsurgeon replace" in unpacked
    refuse("pack", small, "-b", "dct-3", "--half", "-o", tmp_path / "x.safetensors")


def test_a_packed_file_that_lies_is_refused(model):
    packed = fs.pack(fs.replace(fs.load(model), bank="dct-3"), bank="dct-3")
    text = packed.annotations["packed"]
    for lie in (text.replace("linear", "cubic"), text.replace("dw.weight", "other.weight"), "{"):
        with pytest.raises(fs.FilterSurgeonError):
            fs.unpack(packed.annotated("packed", lie))


def test_accuracy_before_and_after(fsurgeon, digits):
    write_network(digits / "net.safetensors", "depthwise")
    images = ("--data", "digits.npz", "--subset", 40, "--factory", "mine:depthwise")
    shape = ("--preprocess", "mean=0.5", "--preprocess", "std=0.5")
    done = fsurgeon("replace", "net.safetensors", "-b", "dct-3", "--dry-run", *images, *shape)
    assert done.returncode == 0, done.stderr
    assert b"accuracy unknown" not in done.stderr
    content = json.loads(done.stdout)
    assert content["accuracy"]["before"]["n_images"] == 40
    network = fs.load("net.safetensors", arch="factory:mine:depthwise")
    after = fs.evaluate(
        fs.replace(network, bank="dct-3"), DataSpec("digits.npz", subset=40),
        preprocess={"mean": [0.5], "std": [0.5]},
    )  # fmt: skip
    assert after.top1 == content["accuracy"]["after"]["top1_count"]
    assert after.loss == pytest.approx(content["accuracy"]["after"]["loss"], rel=1e-6)


def test_an_accuracy_that_nobody_measured_is_said_to_be_unknown(model, fsurgeon, digits):
    written = ("-o", digits / "out.safetensors", "--force")
    unknown = "warning: accuracy unknown: "
    advice = "(--data shows it; --compensate with --data keeps what can be kept)"
    said = fsurgeon("replace", model, *written).stderr.decode()
    assert said.endswith(f"{unknown}no images were passed {advice}\n")
    # Nothing is written, or the next command may show it.
    for words in (("--dry-run",), ()):
        assert unknown not in fsurgeon("replace", model, *words).stderr.decode()
    assert not fsurgeon("replace", model, "--quiet", *written).stderr

    write_network(digits / "net.safetensors", "depthwise")
    network = ("net.safetensors", "--factory", "mine:depthwise", *written)
    images = ("--data", "digits.npz", "--subset", 40, "--compensate", "least-squares")
    shape = ("--preprocess", "mean=0.5", "--preprocess", "std=0.5")
    adapted = "the images only adapted the network (fsurgeon eval on other images shows it)"
    for verb in ("replace", "fabricate"):
        done = fsurgeon(verb, *network, *images, *shape)
        assert done.returncode == 0, done.stderr
        assert done.stderr.decode().endswith(f"{unknown}{adapted}\n")
