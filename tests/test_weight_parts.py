"""Weights that norms, masks and parametrizations of torch store in parts, in every verb."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import filtersurgeon as fs
from filtersurgeon.checkpoint import HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.weight_parts import find_parts
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.filters import find_layers
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages

LAYERS = ("0", "2", "4")
SHAPES = {"0": (8, 3, 3, 3), "2": (8, 1, 3, 3), "4": (6, 8, 3, 3)}
PARTS: dict[str, Callable[[nn.Module], object]] = {
    "mask": lambda module: prune.l1_unstructured(module, "weight", 0.5),
    "structured": lambda module: prune.ln_structured(module, "weight", 2, 2, 0),
    "old-norm": weight_norm,
    "norm-of-all": lambda module: weight_norm(module, dim=None),
    "new-norm": parametrizations.weight_norm,
    "old-spectral": spectral_norm,
    "new-spectral": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
}
NORMS = ("old-norm", "norm-of-all", "new-norm")
KNOWN = tuple(kind for kind in PARTS if kind != "orthogonal")
REMEDY = {
    "mask": "prune.remove", "structured": "prune.remove", "old-spectral": "remove_spectral_norm",
    "new-spectral": "remove_parametrizations", "orthogonal": "remove_parametrizations",
    "old-norm": "remove_weight_norm", "new-norm": "remove_parametrizations",
}  # fmt: skip


def network(kind: str = "", layers: tuple[str, ...] = (*LAYERS, "8")) -> nn.Sequential:
    """Make a small network whose layers store their weights in parts of a kind."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in layers if kind else ():
            PARTS[kind](net.get_submodule(name))
    if "spectral" in kind:
        net.train()(torch.randn(2, 3, 8, 8))  # one step of the power iteration
    return net.eval()


@pytest.fixture(autouse=True)
def _factories(monkeypatch):
    """Let ``--factory parted:KIND`` make the networks, dashes as underscores."""
    module = ModuleType("parted")
    for kind in ("", *PARTS):
        setattr(module, kind.replace("-", "_") or "plain", lambda kind=kind: network(kind))
    monkeypatch.setitem(sys.modules, "parted", module)


def factory(kind: str) -> str:
    """Name the architecture of a kind."""
    return f"factory:parted:{kind.replace('-', '_') or 'plain'}"


def opened(net: nn.Module, path: Path, kind: str = "") -> fs.Checkpoint:
    """Store a network and open it."""
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    return fs.load(path, arch=factory(kind))


def as_plain(checkpoint: fs.Checkpoint, net: nn.Module, path: Path) -> fs.Checkpoint:
    """Store the same network with ordinary weights, of the very bits that layers have."""
    state = {f"{name}.bias": net.get_parameter(f"{name}.bias") for name in (*LAYERS, "8")}
    state |= {layer.tensor: layer.stored.torch() for layer in find_layers(checkpoint)}
    state["8.weight"] = effective(net, "8")
    save_file({k: v.detach().contiguous() for k, v in state.items()}, path)
    return fs.load(path, arch=factory(""))


def effective(net: nn.Module, name: str) -> torch.Tensor:
    """Give the weight that a module computes with."""
    module = net.get_submodule(name)
    for hook in module._forward_pre_hooks.values():
        hook(module, None)
    return module.weight.detach().clone()


def loaded(checkpoint: fs.Checkpoint, kind: str) -> nn.Module:
    """Load a result into torch's own modules."""
    net = network(kind)
    net.load_state_dict(checkpoint.state_dict())
    return net


# Finding


@pytest.mark.parametrize("kind", KNOWN)
def test_layers_are_the_effective_weights(tmp_path, kind):
    net = network(kind)
    found = find_layers(opened(net, tmp_path / "m.safetensors"))
    plain = find_layers(opened(network(), tmp_path / "p.safetensors"))
    assert [(x.name, x.tensor, x.kind, x.shape) for x in found] == [
        (x.name, x.tensor, x.kind, x.shape) for x in plain
    ]
    for layer in found:
        expected = effective(net, layer.name).numpy()
        np.testing.assert_allclose(layer.stored.array(), expected, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("kind", PARTS)
def test_inspection_lists_modules(tmp_path, kind):
    listed = fs.inspect(opened(network(kind), tmp_path / "m.safetensors")).to_json()["layers"]
    assert {layer["name"]: tuple(layer["shape"]) for layer in listed} == SHAPES


@pytest.mark.parametrize("kind", ["old-spectral", "new-spectral"])
@pytest.mark.parametrize("channels", [(4, 6), (5, 5)])
def test_spectral_norms_of_transposed_convolutions(tmp_path, kind, channels):
    torch.manual_seed(1)
    net = nn.Sequential(nn.ConvTranspose2d(*channels, 3))
    PARTS[kind](net[0])
    for _ in range(3):
        net.train()(torch.randn(1, channels[0], 4, 4))
    [layer] = find_layers(opened(net.eval(), tmp_path / "m.safetensors"))
    np.testing.assert_allclose(layer.stored.array(), effective(net, "0").numpy(), rtol=1e-5)


@pytest.mark.parametrize("names", [("weight_v",), ("weight_g",), ("weight_u",), ("weight_ih_l0",)])
def test_a_name_alone_makes_no_part(tmp_path, names):
    save_file({f"c.{name}": torch.ones(4, 2, 3, 3) for name in names}, tmp_path / "m.safetensors")
    assert not find_parts(fs.load(tmp_path / "m.safetensors").tensors)


# Tensor surgery


VERBS: dict[str, Callable[[fs.Checkpoint], fs.Checkpoint]] = {
    "replace": lambda x: fs.replace(x, all_spatial=True),
    "fabricate": lambda x: fs.fabricate(x, norm_match=True),
    "initialize": lambda x: fs.initialize(x, method="ghaar"),
    "unchanged": lambda x: fs.initialize(x, method="unchanged"),
    "twice": lambda x: fs.replace(fs.initialize(x, method="psine"), all_spatial=True),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_norm_is_written_back_in_its_parts(tmp_path, verb, kind):
    net = network(kind)
    checkpoint = opened(net, tmp_path / "m.safetensors", kind)
    plain = as_plain(checkpoint, net, tmp_path / "p.safetensors")
    fs.save(VERBS[verb](checkpoint), tmp_path / "out.safetensors")
    written, expected = fs.load(tmp_path / "out.safetensors"), VERBS[verb](plain)
    assert set(written) == set(checkpoint)
    result = loaded(written, kind)
    for name in LAYERS:
        found, wanted = effective(result, name).numpy(), expected[f"{name}.weight"].array()
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    assert all(np.array_equal(written[k].raw(), checkpoint[k].raw())
               for k in checkpoint if k.startswith("8.") or k.endswith("bias"))  # fmt: skip


@pytest.mark.parametrize("kind", NORMS)
def test_scales_move_into_layers_with_norms(tmp_path, kind):
    checkpoint = opened(network(kind), tmp_path / "m.safetensors", kind)
    folded, plain = fs.replace(checkpoint, fold=True), fs.replace(checkpoint)
    image = torch.randn(2, 3, 8, 8)
    found, expected = (loaded(x, kind)(image) for x in (folded, plain))
    torch.testing.assert_close(found, expected)
    assert not torch.equal(effective(loaded(folded, kind), "4"), effective(network(kind), "4"))


@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind not in NORMS])
@pytest.mark.parametrize("verb", ["replace", "fabricate", "initialize"])
def test_other_parts_refuse_other_weights(tmp_path, verb, kind):
    checkpoint = opened(network(kind, ("4",)), tmp_path / "m.safetensors")
    with pytest.raises(FilterSurgeonError, match=rf"layer 4: .*{REMEDY[kind]}"):
        VERBS[verb](checkpoint)
    done = fs.initialize(checkpoint, method="ghaar", layers=["!4"])
    assert np.array_equal(done["4.bias"].raw(), checkpoint["4.bias"].raw())


@pytest.mark.parametrize("kind", [kind for kind in PARTS if kind != "norm-of-all"])
@pytest.mark.parametrize("bank", [None, "dog8"])
def test_packing_refuses_parts(tmp_path, kind, bank):
    checkpoint = opened(network(kind), tmp_path / "m.safetensors")
    with pytest.raises(FilterSurgeonError, match=rf"layer 0: .*{REMEDY[kind]}"):
        fs.pack(checkpoint, bank=bank)


def test_an_unknown_parametrization_is_not_guessed(tmp_path):
    checkpoint = opened(network("orthogonal"), tmp_path / "m.safetensors")
    with pytest.raises(FilterSurgeonError, match=r"layer 0: .*remove_parametrizations"):
        fs.rank(checkpoint, "l2")


class _Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return 2 * weight


@pytest.mark.parametrize("how", ["own", "beside", "nested", "stacked"])
def test_mixed_parts_are_refused(tmp_path, how):
    net = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if how == "own":
            parametrize.register_parametrization(net[4], "weight", _Doubled())
        elif how == "beside":
            net[4].register_buffer("weight_mask", torch.ones(6, 8, 3, 3))
        elif how == "nested":
            prune.l1_unstructured(weight_norm(net[4]), "weight_v", 0.5)
        else:
            parametrizations.weight_norm(net[4])
            parametrizations.spectral_norm(net[4])
    checkpoint = opened(net, tmp_path / "m.safetensors")
    assert [x.name for x in find_layers(checkpoint)] == list(LAYERS)
    for verb in (lambda x: fs.rank(x, "l2"), VERBS["replace"]):
        with pytest.raises(FilterSurgeonError, match=r"layer 4: .*`layers` '!4'"):
            verb(checkpoint)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dim", [0, None])
def test_zero_and_extreme_filters_in_a_norm(tmp_path, dtype, dim):
    """Zero filters stay zero instead of 0 / 0, and no square leaves the type's range."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        conv = weight_norm(nn.Conv2d(3, 4, 3), dim=dim).to(dtype)
    with torch.no_grad():
        conv.weight_v[3] = 0  # nothing to keep a direction of
    save_file(conv.state_dict(), tmp_path / "m.safetensors")
    checkpoint = fs.load(tmp_path / "m.safetensors")
    new = np.random.default_rng(0).standard_normal((4, 3, 3, 3))
    wide = dtype in (torch.float32, torch.bfloat16)
    new[0], new[1], new[3] = 0, new[1] * (1e-25 if wide else 2e-4), 0
    new[2] *= 1e25 if wide and dim == 0 else 100
    if dim is None:
        new[1] = new[2]
    name = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16"}.get(dtype, "BF16")
    stored = StoredTensor.from_array(new, name)
    edited = checkpoint.edited(HistoryEntry("test"), {"weight": stored}, "")
    conv.load_state_dict(edited.state_dict())
    for hook in conv._forward_pre_hooks.values():
        hook(conv, None)
    close = {torch.float16: 5e-3, torch.bfloat16: 4e-2}.get(dtype, 1e-6)
    expected, found = stored.torch().double(), conv.weight.detach().double()
    scale = expected.flatten(1).norm(dim=1).clamp(min=1e-300)
    assert ((found - expected).flatten(1).norm(dim=1) / scale).max() < close
    assert not found[0].any()
    assert not found[3].any()


# Running and cutting


@pytest.mark.parametrize("kind", PARTS)
def test_the_network_is_built_as_it_is(tmp_path, kind):
    net = network(kind)
    built = fs.build(opened(net, tmp_path / "m.safetensors", kind))
    image = torch.randn(2, 3, 8, 8)
    assert torch.equal(built(image), net(image))
    for name in LAYERS:  # without a pass too
        assert torch.equal(built.get_submodule(name).weight, effective(net, name))


@pytest.mark.parametrize("kind", REMEDY)
def test_parts_are_refused_for_a_network_that_has_one_tensor(tmp_path, kind):
    opened(network(kind), tmp_path / "m.safetensors", kind)
    words = (
        rf"weight is stored in parts, and .* one tensor; call .*{REMEDY[kind]}\(.* before saving"
    )
    with pytest.raises(FilterSurgeonError, match=words):
        fs.build(fs.load(tmp_path / "m.safetensors", arch=factory("")))


CUTS = {
    "per-layer": {"sparsity": 0.4, "per_layer": True},
    "channelprune": {"sparsity": 0.6, "method": "l2"},
    "exact": {"sparsity": 0.6, "method": "l2", "mode": "exact"},
    "merge": {"sparsity": 0.4, "per_layer": True, "compensate": "merge"},
}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("how", CUTS)
def test_cuts_are_those_of_the_ordinary_network(tmp_path, kind, how):
    net = network(kind)
    checkpoint = opened(net, tmp_path / "m.safetensors", kind)
    if kind == "orthogonal" and how in ("channelprune", "exact"):
        # Kernels are scored by their weights, which these parts do not tell.
        with pytest.raises(FilterSurgeonError, match=r"layer 0: .*remove_parametrizations"):
            fs.prune(checkpoint, **CUTS[how])
        return
    if kind == "orthogonal":
        for name in (*LAYERS, "8"):
            parametrize.remove_parametrizations(net.get_submodule(name), "weight")
        plain = opened(net, tmp_path / "p.safetensors")
    else:
        plain = as_plain(checkpoint, net, tmp_path / "p.safetensors")
    fs.save(fs.prune(checkpoint, **CUTS[how]), tmp_path / "out.safetensors")
    cut = fs.load(tmp_path / "out.safetensors", arch=factory(kind))
    expected = fs.prune(plain, **CUTS[how])
    assert cut.parameters < checkpoint.parameters
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fs.build(cut)(image), fs.build(expected)(image))
    again = fs.prune(cut, sparsity=0.5, per_layer=True)
    assert again.parameters < cut.parameters


@pytest.mark.parametrize("kind", KNOWN)
@pytest.mark.parametrize("how", CUTS)
def test_cut_weights_stay_in_their_parts(tmp_path, kind, how):
    checkpoint = opened(network(kind), tmp_path / "m.safetensors", kind)
    cut = fs.prune(checkpoint, **CUTS[how])
    if how == "merge" and kind in ("mask", "structured"):
        return  # what a mask covers may get a weight, and the mask then ends
    assert set(cut) == set(checkpoint)
    assert not cut.structure


@pytest.mark.parametrize("kind", [*NORMS, "mask"])
def test_parts_keep_their_own_values(tmp_path, kind):
    """Where only channels go, directions and masks are slices of the old ones, bit for bit."""
    checkpoint = opened(network(kind), tmp_path / "m.safetensors", kind)
    cut = fs.prune(checkpoint, sparsity=0.4, per_layer=True)
    name = {"mask": "weight_orig", "new-norm": "parametrizations.weight.original1"}
    rows = {row.tobytes() for row in checkpoint[f"0.{name.get(kind, 'weight_v')}"].array()}
    assert all(row.tobytes() in rows for row in cut[f"0.{name.get(kind, 'weight_v')}"].array())


@pytest.mark.parametrize("kind", ["mask", "orthogonal"])
def test_parts_that_hold_no_such_weight_become_one_tensor(tmp_path, kind):
    sys.modules["parted"].some = lambda: network(kind, ("0", "8"))
    net = network(kind, ("0", "8"))
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp_path / "m.safetensors")
    checkpoint = fs.load(tmp_path / "m.safetensors", arch="factory:parted:some")
    notes = []
    how = {"per_layer": True, "sparsity": 0.4, "layers": ["4"]}
    if kind == "mask":
        how = {"sparsity": 0.5, "method": "l2", "fill": "fillzero"}
    cut = fs.prune(checkpoint, **how, observe=lambda report: notes.extend(report.notes))
    joined = [edit["module"] for edit in cut.structure if edit["edit"] == "plain-weight"]
    assert joined == {"mask": ["0", "8"], "orthogonal": ["8"]}[kind]
    assert {k for k in cut if k.startswith("8.")} == {"8.weight", "8.bias"}
    assert any("became ordinary ones in" in note for note in notes)
    if kind == "orthogonal":
        assert {k for k in cut if k[0] == "0"} == {k for k in checkpoint if k[0] == "0"}
    assert torch.isfinite(fs.build(cut)(torch.randn(1, 3, 8, 8))).all()


@pytest.mark.parametrize("kind", [*NORMS, "mask"])
def test_noise_leaves_parts_alone_that_lost_no_kernel(tmp_path, kind):
    checkpoint = opened(network(kind), tmp_path / "m.safetensors", kind)
    cut = fs.prune(checkpoint, sparsity=0.0, method="l2", fill="fillzero")
    assert set(cut) == set(checkpoint)
    assert all((cut[name].array() == checkpoint[name].array()).all() for name in checkpoint)


def test_unused_spectral_norms_do_not_tell_their_axis(tmp_path):
    """Before training u and v are random, and a square weight may be that of a transposed layer."""
    torch.manual_seed(2)
    net = nn.Sequential(spectral_norm(nn.Conv2d(9, 9, 3)))
    checkpoint = opened(net, tmp_path / "m.safetensors")
    with pytest.raises(FilterSurgeonError, match=r"layer 0: .*remove_spectral_norm"):
        fs.rank(checkpoint, "l2")


@pytest.mark.parametrize("kind", PARTS)
def test_modules_of_fixed_filters_take_the_place_of_parts(tmp_path, kind):
    checkpoint = opened(network(kind), tmp_path / "m.safetensors", kind)
    made = fs.convert(checkpoint, module="pfm", layers=["4"])
    assert not [name for name in made if name.startswith(("4.weight", "4.parametrizations"))]
    assert fs.build(made)(torch.randn(1, 3, 8, 8)).shape == (1, 4)


@pytest.fixture
def images(tmp_path):
    """A few images with labels."""
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "d.npz",
        x_train=random.random((8, 8, 8, 3), np.float32), y_train=np.arange(8) % 4,
        x_test=random.random((8, 8, 8, 3), np.float32), y_test=np.arange(8) % 4,
    )  # fmt: skip
    return str(tmp_path / "d.npz")


@pytest.mark.parametrize("kind", KNOWN)
def test_saliency_is_that_of_the_effective_weights(tmp_path, images, kind):
    net = network(kind)
    checkpoint = opened(net, tmp_path / "m.safetensors", kind)
    plain = as_plain(checkpoint, net, tmp_path / "p.safetensors")
    found, wanted = (fs.rank(x, "saliency", data=images).layers for x in (checkpoint, plain))
    for name in LAYERS:
        np.testing.assert_allclose(found[name].scores, wanted[name].scores, rtol=1e-4, atol=1e-12)


def _tuned(checkpoint: fs.Checkpoint, images: str, freeze: str) -> fs.Checkpoint:
    recipe = TrainingRecipe(freeze=freeze, lr=0.1)
    source = TrainingImages(DataSpec(images, "train"))
    return fs.tune(checkpoint, source, recipe, RunSettings(epochs=1, batch_size=4))[0]


@pytest.mark.parametrize("kind", PARTS)
def test_training_keeps_the_parts(tmp_path, images, kind):
    checkpoint = opened(network(kind), tmp_path / "m.safetensors", kind)
    tuned = _tuned(checkpoint, images, "none")
    assert set(tuned) == set(checkpoint)
    before, after = network(kind), loaded(tuned, kind)
    assert not torch.equal(effective(before, "4"), effective(after, "4"))


@pytest.mark.parametrize("kind", PARTS)
def test_frozen_weights_in_parts_stay_or_are_refused(tmp_path, images, kind):
    checkpoint = opened(network(kind), tmp_path / "m.safetensors", kind)
    if kind in ("old-spectral", "new-spectral", "orthogonal"):
        with pytest.raises(FilterSurgeonError, match="layer 0"):
            _tuned(checkpoint, images, "spatial")
        return
    tuned = _tuned(checkpoint, images, "spatial")
    before, after = network(kind), loaded(tuned, kind)
    assert torch.equal(effective(before, "4"), effective(after, "4"))
    assert not torch.equal(effective(before, "8"), effective(after, "8"))
