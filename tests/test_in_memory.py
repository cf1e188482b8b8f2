"""Modules in memory: opened as checkpoints, pruned, and given back."""

import copy
import re
import runpy
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.checkpoint.vision import import_timm, import_torchvision
from filtersurgeon.errors import OptionError
from filtersurgeon.networks.in_memory import copy_module


class Net(nn.Module):
    """A residual network with a second input."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
        self.register_buffer("shift", torch.ones(1), persistent=False)

    def forward(self, image, scale=None):
        """Give scores, times a scale."""
        x = functional.relu(self.norm(self.one(image)))
        x = functional.relu(self.two(x)).mean((2, 3))
        scores = self.head(x) + self.shift
        return scores if scale is None else scores * scale


class Needy(Net):
    """A network whose second input is needed."""

    def forward(self, image, scale):
        """Give scores, times a scale."""
        return super().forward(image, scale)


def prune(module, inputs, **options):
    return fs.prune(module, inputs, sparsity=0.5, per_layer=True, method="l2", **options)


def test_a_module_is_pruned_and_the_original_stays():
    torch.manual_seed(0)
    module = Net().train()
    module.norm.eval()
    module.one.weight.requires_grad_(False)
    before = copy.deepcopy(module.state_dict())
    seen = []
    module.two.register_forward_hook(lambda *_: seen.append(1))
    slim = prune(module, torch.randn(2, 3, 16, 16))
    assert type(slim) is Net
    assert slim.one.weight.shape == (4, 3, 3, 3)
    assert slim.head.in_features == 4
    assert (slim.training, slim.norm.training, slim.two.training) == (True, False, True)
    assert not slim.one.weight.requires_grad
    assert slim.two.weight.requires_grad
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    del seen[:]
    assert slim(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    assert seen == [1]


def silence_half(module):
    """Give a copy whose weakest half of the filters of each layer adds nothing."""
    silent = copy_module(module)
    gone = module.one.weight.detach().flatten(1).norm(dim=1).argsort()[:4]
    with torch.no_grad():
        silent.norm.weight[gone] = 0
        silent.norm.bias[gone] = 0
        least = silent.two.weight.flatten(1).norm(dim=1).argsort()[:4]
        silent.head.weight[:, least] = 0
    return silent


def test_the_pruned_outputs_are_those_of_the_kept_channels():
    torch.manual_seed(0)
    module = Net().eval()
    slim, image = prune(module, (3, 16, 16)), torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(slim(image), silence_half(module)(image))


def test_a_module_is_pruned_again_after_training():
    torch.manual_seed(0)
    module, image = Net().train(), torch.randn(4, 3, 16, 16)
    for width in (4, 2):
        module = prune(module, image)
        assert module.one.out_channels == width
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        first = module.two.weight.detach().clone()
        module(image).square().sum().backward()
        optimizer.step()
        assert not torch.equal(first, module.two.weight)


class Reading(nn.Module):
    """A convolution that attention reads, and then a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3)
        self.heads = nn.MultiheadAttention(8, 4, batch_first=True)
        self.memory = nn.LSTM(8, 6, bidirectional=True, batch_first=True)
        self.head = nn.Linear(12, 5)

    def forward(self, image):
        """Give scores."""
        x = self.one(image).flatten(2).transpose(1, 2)
        return self.head(self.memory(x + self.heads(x, x, x)[0])[0].mean(1))


def test_a_recurrent_layer_and_attention_lose_inputs():
    torch.manual_seed(0)
    module, image = Reading().train(), torch.randn(2, 3, 6, 6)
    for width in (4, 2):
        slim = prune(module, image)
        assert slim.one.out_channels == slim.heads.embed_dim == slim.memory.input_size == width
        assert slim.heads.num_heads == width // 2
        gone = torch.nonzero(~torch.isin(module.one.bias, slim.one.bias)).flatten()
        # Heads go whole, with their two channels.
        assert gone[1::2].tolist() == (gone[::2] + 1).tolist()
        silent = copy.deepcopy(module)
        rows = torch.cat([gone + start for start in range(0, 6 * width, 2 * width)])
        with torch.no_grad():
            for tensor, places in (
                (silent.one.weight, gone),
                (silent.one.bias, gone),
                (silent.heads.out_proj.weight, gone),
                (silent.heads.out_proj.bias, gone),
                (silent.heads.in_proj_weight, rows),
                (silent.heads.in_proj_bias, rows),
            ):
                tensor[places] = 0
        torch.testing.assert_close(slim(image), silent(image))
        slim(image).sum().backward()
        assert slim.memory.weight_ih_l0.grad.shape == (24, width)
        module = slim


def test_exact_pruning_keeps_what_recurrent_layers_and_attention_read():
    torch.manual_seed(0)
    module, image = Reading(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        module.head.weight[:, 3] = 0  # the other units read this one
    slim = fs.prune(module, image, sparsity=0.5, mode="exact", method="l2")
    assert slim.one.out_channels == slim.heads.embed_dim == 8
    assert slim.memory.hidden_size == 6


def test_in_place_keeps_the_objects():
    module = Net()
    one = module.one
    assert prune(module, (3, 16, 16), copy=False) is module
    assert module.one is one
    assert one.out_channels == 4
    assert module(torch.randn(2, 3, 16, 16)).shape == (2, 5)


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.randn(2, 3, 16, 16), torch.ones(2, 5)),
        {"scale": torch.ones(1, 5), "image": torch.randn(1, 3, 16, 16)},
    ],
)
def test_several_inputs(inputs):
    slim = prune(Needy(), inputs)
    assert slim.one.out_channels == 4
    found = slim(**inputs) if isinstance(inputs, dict) else slim(*inputs)
    assert found.shape[1] == 5


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(1, 3, 16, 16), "'scale'"),
        ((3, 16, 16), "'scale'"),
        ({"image": torch.randn(1, 3, 16, 16), "extra": 1, "scale": 1}, "'extra'"),
        ((torch.empty(1, 3, 16, 16, device="meta"), 1.0), "one device"),
        (("image", 1.0), "hold a tensor"),
    ],
)
def test_inputs_that_do_not_go(inputs, message):
    with pytest.raises(fs.FilterSurgeonError, match=message):
        prune(Needy(), inputs)


def test_a_module_without_data():
    with pytest.raises(fs.FilterSurgeonError, match="no data"):
        prune(Net().to("meta"), (3, 16, 16))


def test_types_stay():
    slim = prune(Net().double(), (3, 16, 16))
    assert {p.dtype for p in slim.parameters()} == {torch.float64}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    "split",
    [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm,
     nn.utils.weight_norm],
)  # fmt: skip
def test_weights_in_parts_stay_in_parts(split, in_place):
    torch.manual_seed(0)
    module, image = Net().eval(), torch.randn(2, 3, 16, 16)
    split(module.two)
    module(image)
    expected, silent = module(image), silence_half(module)(image)
    parts = [name for name, _ in module.two.named_parameters()]
    slim = prune(module, (3, 16, 16), copy=not in_place)
    assert [name for name, _ in slim.two.named_parameters()] == parts
    assert slim.two.weight.shape == (4, 4, 3, 3)
    torch.testing.assert_close(slim(image), silent, rtol=1e-4, atol=1e-5)
    if not in_place:
        torch.testing.assert_close(module(image), expected)


def test_load_takes_a_snapshot(tmp_path):
    module = Net()
    checkpoint = fs.load(module, example_inputs=(3, 16, 16))
    with torch.no_grad():
        module.head.bias.fill_(7)
    assert checkpoint["head.bias"].array().max() < 7
    slim = fs.prune(checkpoint, sparsity=0.5, per_layer=True, method="l2")
    fs.save(slim, tmp_path / "m.safetensors")
    again = fs.load(tmp_path / "m.safetensors")
    assert again.architecture is None
    assert again["one.weight"].shape == (4, 3, 3, 3)
    assert fs.channels(checkpoint).free == 16


def test_save_takes_a_module(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    fs.save(fs.prune(module, (3, 16, 16), per_layer=True, sparsity=0.5), tmp_path / "m.safetensors")
    assert fs.load(tmp_path / "m.safetensors")["2.weight"].shape == (4, 4, 3, 3)
    with pytest.raises(OptionError, match="`module` that it belongs to"):
        fs.save(module.state_dict(), tmp_path / "other.safetensors")


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_a_saved_module_of_a_library_states_its_architecture(tmp_path, library):
    source = import_timm() if library == "timm" else import_torchvision().models
    make = source.create_model if library == "timm" else source.get_model
    torch.manual_seed(0)
    module = make("resnet18", num_classes=3)
    pruned = fs.prune(fs.load(module, example_inputs=(3, 32, 32)), per_layer=True, sparsity=0.5)
    fs.save(pruned, tmp_path / "m.safetensors")
    stored = fs.load(tmp_path / "m.safetensors")
    assert stored.architecture == f"{library}:resnet18"
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(fs.build(stored)(image), fs.build(pruned)(image))


def test_a_saved_folder_of_a_module_loads_in_timm(tmp_path):
    timm = import_timm()
    torch.manual_seed(0)
    module = timm.create_model("test_resnet", num_classes=3)
    pruned = fs.prune(fs.load(module), per_layer=True, sparsity=0.5)
    fs.save(pruned, f"{tmp_path}/pruned/")
    loaded = timm.create_model(f"local-dir:{tmp_path}/pruned", pretrained=True).eval()
    image = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(image), fs.build(pruned)(image))


def test_a_module_that_computes_otherwise_states_no_architecture(tmp_path):
    module = import_timm().create_model("test_resnet", act_layer="gelu")
    fs.save(module, tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert "architecture" not in file.metadata()


def test_load_takes_a_state_dict():
    state = {k: v + 1 for k, v in Net().state_dict().items()}
    checkpoint = fs.load(state, module=Net())
    assert torch.equal(checkpoint["head.bias"].torch(), state["head.bias"])
    del state["head.bias"]
    with pytest.raises(fs.FilterSurgeonError, match=r"head\.bias"):
        fs.load(state, module=Net())
    with pytest.raises(fs.FilterSurgeonError, match="`module`"):
        fs.load(state)


def test_analysers_take_modules():
    module = Net()
    assert fs.channels(module, example_inputs=(3, 16, 16)).free == 16
    assert fs.rank(module, "l2").layers.keys() >= {"one", "two"}
    assert fs.inspect(module).to_json()["parameters"] > 0
    with pytest.raises(fs.FilterSurgeonError, match="not int"):
        fs.inspect(3)


def test_the_example_prunes_in_training(tmp_path, capsys):
    path = Path(__file__).parents[1] / "examples" / "prune_in_training.py"
    runpy.run_path(str(path))["main"](str(tmp_path / "m.safetensors"))
    assert "after cut 2" in capsys.readouterr().out
    assert fs.load(tmp_path / "m.safetensors")["stem.weight"].shape == (9, 3, 3, 3)


def test_the_example_prunes_a_detector_and_a_unet(tmp_path, capsys):
    import_torchvision()
    path = Path(__file__).parents[1] / "examples" / "prune_detector_and_unet.py"
    runpy.run_path(str(path))["main"](str(tmp_path))
    said = capsys.readouterr().out
    counts = [int(n) for n in re.findall(r"detector after cut \d: (\d+) parameters", said)]
    assert counts[1] < 0.7 * counts[0]
    assert fs.load(tmp_path / "unet.safetensors")["first.0.weight"].shape == (9, 3, 3, 3)
    stem = fs.load(tmp_path / "detector.safetensors")["backbone.features.0.0.0.weight"]
    assert stem.shape == (9, 3, 3, 3)


def test_a_parametrized_module_stays_as_it_is():
    torch.manual_seed(0)
    first = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    module = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    image = torch.randn(1, 3, 16, 16)
    expected = module(image)
    slim = prune(module, image)
    assert torch.equal(module(image), expected)
    assert nn.utils.parametrize.is_parametrized(module[0])
    assert slim[0].weight.shape == (4, 3, 3, 3)
    assert slim(image).shape == expected.shape


def test_a_target_without_images():
    torch.manual_seed(0)
    module = Net().train()
    slim = fs.prune(module, (3, 16, 16), target="macs=0.6x")
    assert type(slim) is Net
    assert slim.training
    assert slim(torch.randn(2, 3, 16, 16)).shape == (2, 5)
    assert slim.two.weight.numel() < module.two.weight.numel()


def _layers(channels=3, groups=1):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=groups),
        nn.ReLU(),
        nn.Conv2d(8, 4, 1),
    ).eval()


def _trace(module, channels=3):
    return torch.jit.trace(module, torch.zeros(1, channels, 16, 16))


@pytest.mark.parametrize("compile_module", [torch.jit.script, _trace])
def test_torchscript_modules_are_pruned_as_those_that_they_were_made_from(compile_module):
    image = torch.randn(1, 3, 16, 16)
    options = {"sparsity": 0.5, "per_layer": True, "method": "l2"}
    original, compiled = _layers(), compile_module(_layers())
    before = compiled(image)
    expected, slim = fs.prune(original, image, **options), fs.prune(compiled, image, **options)
    assert {k: v.shape for k, v in slim.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }
    assert slim.state_dict()["0.weight"].shape == (4, 3, 3, 3)
    assert torch.allclose(slim(image), expected(image), atol=1e-6)
    assert torch.equal(compiled(image), before)
    slim(image).sum().backward()
    assert all(parameter.grad is not None for parameter in slim.parameters())
    with pytest.raises(OptionError, match="TorchScript module cannot be changed in place"):
        fs.prune(compiled, image, copy=False, **options)


def test_a_torchscript_module_of_several_inputs_takes_them_again():
    torch.manual_seed(0)
    module = Needy().eval()
    inputs = torch.randn(1, 3, 16, 16), torch.ones(1, 1)
    plain, scripted = (prune(m, inputs) for m in (module, torch.jit.trace(module, inputs)))
    other = torch.randn(2, 3, 16, 16), torch.full((1, 1), 2.0)
    with torch.no_grad():
        torch.testing.assert_close(scripted(*other), plain(*other))


@pytest.mark.parametrize("compile_module", [torch.jit.script, lambda m: _trace(m, 4)])
def test_torchscript_modules_inside_are_pruned_with_what_is_around_them(compile_module):
    """Their code holds the number of groups, so that a depthwise convolution stays."""
    image = torch.randn(1, 3, 16, 16)
    for groups, left in ((1, 4), (8, 8)):
        network = nn.Sequential(
            nn.Conv2d(3, 4, 1), compile_module(_layers(4, groups)), nn.ReLU(), nn.Conv2d(4, 2, 1)
        )
        slim = fs.prune(network.eval(), image, sparsity=0.5, per_layer=True, method="l2")
        shapes = {k: tuple(v.shape) for k, v in slim.state_dict().items()}
        assert shapes["0.weight"] == (2, 3, 1, 1)
        assert shapes["1.0.weight"] == (left, 2, 3, 3)
        assert shapes["1.5.weight"] == (2, left, 1, 1)
        assert slim(image).shape == (1, 2, 16, 16)
