"""Networks whose tensors have other shapes than their architecture's."""

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import torch
from hand_pruned import EXAMPLES, pruned_by_hand
from torch import nn

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.learn.networks import fresh_model
from filtersurgeon.networks.build import convolution_groups


@cache
def _checkpoint(name: str) -> fs.Checkpoint:
    return pruned_by_hand(EXAMPLES[name])[1]


def _images(side: int = 64) -> torch.Tensor:
    return torch.randn((2, 3, side, side), generator=torch.Generator().manual_seed(1))


def _outputs(network: nn.Module, side: int = 64) -> torch.Tensor:
    with torch.inference_mode():
        return network(_images(side))


def _mirrored(network: nn.Module) -> None:
    """Check the integers that modules keep beside their tensors."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (
                module.out_channels,
                module.in_channels // module.groups,
            )
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean.shape == (module.num_features,)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_pruned_network_computes_what_the_silenced_one_does(tmp_path, name):
    silenced, checkpoint = pruned_by_hand(EXAMPLES[name])
    fs.save(checkpoint, tmp_path / "m.safetensors")
    built = fs.build(fs.load(tmp_path / "m.safetensors"))
    assert not any(t.is_meta for t in (*built.parameters(), *built.buffers()))
    assert sum(p.numel() for p in built.parameters()) < sum(
        p.numel() for p in silenced.parameters()
    )
    _mirrored(built)
    wanted = _outputs(silenced)
    assert (_outputs(built) - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert convolution_groups(checkpoint) == {
        key: module.groups for key, module in built.named_modules() if isinstance(module, nn.Conv2d)
    }


# Only what goes together is accepted


def _with(checkpoint: fs.Checkpoint, **tensors: np.ndarray) -> fs.Checkpoint:
    stored = {name: fs.StoredTensor.from_array(value, "F32") for name, value in tensors.items()}
    return replace(checkpoint, tensors={**checkpoint.tensors, **stored})


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ({"layer1.0.conv1.weight": (61, 64, 5, 5)}, "more than channels"),
        ({"layer1.0.conv1.weight": (61, 64, 9)}, r"\[61, 64, 9\]"),
        ({"layer1.0.conv1.weight": (60, 64, 3, 3)}, "do not go together"),
        ({"layer1.0.conv1.weight": (0, 64, 3, 3)}, r"\[0, 64"),
        ({"layer1.0.bn1.weight": (60,)}, "at layer1.0.bn1, .* 61 .*60"),
        ({"layer2.0.conv1.weight": (128, 63, 3, 3)}, "at layer2.0.conv1, .*63"),
        ({"layer9.conv.weight": (1,)}, "no tensor layer9"),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(shapes, word):
    checkpoint = _checkpoint("resnet18")
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    with pytest.raises(ArchitectureError, match=word) as caught:
        fs.build(_with(checkpoint, **arrays))
    assert "\n" not in str(caught.value)
    assert "choose another `arch`" in str(caught.value)


def test_a_network_without_its_name_or_under_another_is_refused():
    checkpoint = _checkpoint("resnet18")
    with pytest.raises(ArchitectureError, match="fits no network"):
        fs.build(replace(checkpoint, architecture=None))
    for other in ("timm:resnet34", "timm:resnet10t", "timm:resnet50"):
        with pytest.raises(ArchitectureError, match="does not fit"):
            fs.build(checkpoint, arch=other)
    with pytest.raises(ArchitectureError, match="1 tensors are missing"):
        fs.build(
            replace(
                checkpoint,
                tensors={k: v for k, v in checkpoint.tensors.items() if k != "layer1.0.bn1.bias"},
            )
        )


def test_networks_that_were_not_changed_are_not_run(monkeypatch):
    from filtersurgeon.networks import build as module

    _, checkpoint = pruned_by_hand(replace(EXAMPLES["mobilenetv3"], cuts=[]))
    monkeypatch.setattr(module, "check_runs", lambda *_: pytest.fail("ran"))
    fs.build(checkpoint)


def test_a_wider_network_is_loaded_and_not_initialised():
    checkpoint = _checkpoint("mobilenetv3")
    hidden = {
        "blocks.1.1.conv_pw.weight": (90, 16, 1, 1),
        "blocks.1.1.conv_dw.weight": (90, 1, 3, 3),
        "blocks.1.1.conv_pwl.weight": (16, 90, 1, 1),
        **{
            f"blocks.1.1.bn{i}.{part}": (90,)
            for i in (1, 2)
            for part in ("weight", "bias", "running_mean", "running_var")
        },
    }
    wider = _with(checkpoint, **{k: np.ones(shape, np.float32) for k, shape in hidden.items()})
    assert fs.build(wider).get_submodule("blocks.1.1.conv_dw").groups == 90
    with pytest.raises(ArchitectureError, match="wider"):
        fresh_model(wider, None, seed=0)


@pytest.mark.parametrize("classes", [None, 7])
def test_a_pruned_network_is_initialised_pruned(classes):
    checkpoint = _checkpoint("densenet121")
    model = fresh_model(checkpoint, classes, seed=3)
    assert model.classifier.weight.shape == (classes or 1000, 1022)
    assert _outputs(model.eval()).shape == (2, classes or 1000)
    again = fresh_model(checkpoint, classes, seed=3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    other = fresh_model(checkpoint, classes, seed=4)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)


def test_a_network_of_the_users_is_changed_too():
    state = {
        "0.weight": np.ones((5, 3, 3, 3)),
        "0.bias": np.ones(5),
        "2.weight": np.ones((7, 5, 3, 3)),
        "2.bias": np.ones(7),
    }
    tensors = {k: fs.StoredTensor.from_array(v.astype(np.float32), "F32") for k, v in state.items()}
    checkpoint = fs.Checkpoint(tensors, architecture=f"factory:{__name__}:two_layers")
    built = fs.build(checkpoint)
    assert (built[0].out_channels, built[2].in_channels) == (5, 5)
    assert built(torch.ones(1, 3, 9, 9)).shape == (1, 7, 5, 5)


def two_layers() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 7, 3))


def parallel_layers() -> nn.Module:
    model = nn.DataParallel(two_layers())
    model.pretrained_cfg = {"input_size": (3, 9, 9)}
    return model


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_network_for_several_devices_keeps_its_names(tmp_path, wrapped):
    torch.manual_seed(0)
    model = parallel_layers()
    torch.save((model if wrapped else model.module).state_dict(), tmp_path / "wide.pt")
    target = tmp_path / "slim.safetensors"
    architecture = f"factory:{__name__}:parallel_layers"
    with fs.load(tmp_path / "wide.pt", arch=architecture) as checkpoint:
        fs.save(fs.prune(checkpoint, sparsity=0.5, per_layer=True, method="l2"), target)
    with fs.load(target, arch=architecture) as checkpoint:
        assert sorted(checkpoint) == sorted(model.state_dict())
        slim = fs.build(checkpoint)
    assert slim.module[0].out_channels == 4
    wide = model.module
    gone = wide[0].weight.detach().flatten(1).norm(dim=1).argsort()[:4]
    with torch.no_grad():
        wide[0].weight[gone] = 0
        wide[0].bias[gone] = 0
        image = torch.randn(1, 3, 9, 9)
        torch.testing.assert_close(slim(image), wide(image))


def tied_layers() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 4), _Sum(model))


class _Sum(nn.Module):
    def __init__(self, parts: nn.Sequential) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.parts[0](x) + self.parts[1](x)


@pytest.mark.parametrize("width", [4, 3])
@pytest.mark.parametrize("same", [True, False])
def test_tied_parameters_stay_tied_unless_their_values_differ(width, same):
    """The network takes 28x28 images only, which nothing tells."""
    rng = np.random.default_rng(0)
    tied = rng.standard_normal((6, width))
    state = {
        "1.weight": rng.standard_normal((width, 3 * 28 * 28)),
        "1.bias": rng.standard_normal(width),
        "2.parts.0.weight": tied,
        "2.parts.1.weight": tied if same else tied + 1,
    }
    tensors = {k: fs.StoredTensor.from_array(v.astype(np.float32), "F32") for k, v in state.items()}
    built = fs.build(fs.Checkpoint(tensors, architecture=f"factory:{__name__}:tied_layers"))
    first, second = built[2].parts
    assert (first.weight is second.weight) == same
    assert (first.in_features, second.in_features) == (width, width)
    assert np.allclose(second.weight.detach(), state["2.parts.1.weight"])


class Unstored(nn.Module):
    """Uses a buffer that is not stored, made in one of several ways."""

    def __init__(self, kind: str = "scale") -> None:
        super().__init__()
        self.kind = kind
        self.first = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8 - 3 * (kind == "mask"), 2, 1)
        values = torch.linspace(1, 2, 8)
        table = {
            "scale": values.view(1, 8, 1, 1),
            "vector": values,
            "kernel": values.view(8, 1, 1, 1) * torch.linspace(0, 1, 72).view(8, 1, 3, 3),
            "blur": torch.ones(8, 1, 3, 3) / 9,
            "mask": torch.arange(8) % 3 != 0,
        }[kind]
        self.channels = self.num_features = 8
        self.register_buffer("table", table, persistent=False)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        if self.kind == "mask":
            return self.last(x[:, self.table])
        if self.kind == "vector":
            return self.last(x * self.table.view(1, self.num_features, 1, 1))
        if self.kind == "scale":
            return self.last(x * self.table)
        return self.last(nn.functional.conv2d(x, self.table, groups=self.channels))


scale, vector, kernel, blur, mask = (
    partial(Unstored, kind) for kind in ("scale", "vector", "kernel", "blur", "mask")
)


@pytest.mark.parametrize("kind", ["scale", "vector", "kernel", "blur", "mask"])
def test_buffers_that_are_not_stored_are_cut_along(tmp_path, kind):
    torch.manual_seed(0)
    network, image = Unstored(kind), torch.randn(1, 3, 8, 8)
    torch.save(network.state_dict(), tmp_path / "whole.pt")
    arch = f"factory:{__name__}:{kind}"
    with fs.load(tmp_path / "whole.pt", arch=arch) as whole:
        once = fs.prune(whole, sparsity=0.3, per_layer=True, method="l2")
        fs.save(
            fs.prune(once, sparsity=0.3, per_layer=True, method="l2"), tmp_path / "slim.safetensors"
        )
    with fs.load(tmp_path / "slim.safetensors", arch=arch) as checkpoint:
        slim = fs.build(checkpoint)
    assert slim.first.out_channels == (6 if kind == "mask" else 5)
    removed = ~torch.isin(network.first.bias, slim.first.bias)
    with torch.no_grad():
        network.first.weight[removed] = 0
        network.first.bias[removed] = 0
        torch.testing.assert_close(slim(image), network(image))


class Picking(nn.Module):
    """Permutes channels by one buffer and chooses some by another; asserts that all are finite."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(5, 2, 1)
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 5, 4, 6]))
        self.register_buffer("chosen", torch.tensor([1, 0, 1, 1, 0, 0, 1, 1]).bool())
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))[:, self.order][:, self.chosen]
        assert torch.isfinite(x).all()
        return self.last(x)


def picking() -> nn.Module:
    return Picking()


def test_buffers_that_pick_channels_are_stored_renumbered(tmp_path):
    torch.manual_seed(0)
    network, image = Picking(), torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        for channel, size in ((6, 1e-3), (3, 1e-4), (1, 1e-2)):
            network.first.weight[channel] *= size
    torch.save(network.state_dict(), tmp_path / "whole.pt")
    arch = f"factory:{__name__}:picking"
    with fs.load(tmp_path / "whole.pt", arch=arch) as whole:
        fs.save(fs.prune(whole, sparsity=0.4, per_layer=True), tmp_path / "slim.safetensors")
    with fs.load(tmp_path / "slim.safetensors", arch=arch) as slim:
        pruned = fs.build(slim)
    # Channels 0, 2, 4, 5 and 7 are left. Of those that are picked, 3, 0, 2, 4 and 6, 3 and 6 go.
    assert pruned.order.tolist() == [0, 1, 4, 3, 2]
    assert pruned.chosen.tolist() == [True, True, False, False, True]
    with torch.no_grad():
        network.first.weight[[1, 3, 6]] = 0
        network.first.bias[[1, 3, 6]] = 0
        assert torch.allclose(pruned(image), network(image), atol=1e-6)


def test_networks_that_look_at_values_are_tried_on_numbers(tmp_path):
    """Shapes tell nothing of the lists by which channels are picked."""
    state = Picking().state_dict()
    state["first.weight"], state["first.bias"] = state["first.weight"][:6], state["first.bias"][:6]
    torch.save(state, tmp_path / "short.pt")
    arch = f"factory:{__name__}:picking"
    with (
        fs.load(tmp_path / "short.pt", arch=arch) as short,
        pytest.raises(fs.errors.ArchitectureError, match=r"does not fit .* is out of bounds"),
    ):
        fs.build(short)
