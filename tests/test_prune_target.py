"""``fsurgeon prune --target``: keeping what accuracy can be kept, end to end."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from learning import CIFAR_CFG
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_data import LENET, digits  # noqa: F401

import filtersurgeon as fs
from filtersurgeon.pruning.reconstruction import reconstruct
from filtersurgeon.pruning.reconstruction.plan_file import FORMAT
from filtersurgeon.pruning.settings import PruneSettings
from filtersurgeon.pruning.target import read_target
from filtersurgeon.pruning.worth import Worth
from filtersurgeon.transforms._cut_to_target import PreparedCuts

torch.set_num_threads(1)

RESNET20 = (
    "--factory", "examples.zoo.networks:cifar_resnet20",
    "--preprocess", "mean=0.485,0.456,0.406", "--preprocess", "std=0.229,0.224,0.225",
    "--preprocess", "input_size=3,32,32",
)  # fmt: skip
LE = ("le.safetensors", *LENET)
IMAGES = ("--data", "digits.npz", "--subset", "60")

NETWORK = """
from torch import nn

def small():
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
    network.pretrained_cfg = {"input_size": (3, 16, 16)}
    return network

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))

    def forward(self, x):
        return (x + self.second(self.first(x))).relu()

def residual():
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), Block(), Block(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )
    network.pretrained_cfg = {"input_size": (3, 16, 16)}
    return network

def alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.pretrained_cfg = {"input_size": (3, 16, 16)}
    return network
"""


def pruned(fsurgeon, *words, out="out.safetensors", check=True) -> str:
    """Prune; gives what was said."""
    done = fsurgeon("prune", *words, "-o", out, "--force")
    said = done.stderr.decode()
    if check:
        assert done.returncode == 0, said
    return said


# A real network.


@pytest.fixture(scope="module")
def slim(fsurgeon, shared_data, tmp_path_factory):
    """ResNet-20 at 70 % of the operations, with 300 images and no labels, its plan and picture."""
    folder = tmp_path_factory.mktemp("slim")
    with np.load(shared_data / "cifar10" / "train_10k.npz") as found:
        np.savez(folder / "photographs.npz", x=found["x"][:300], y=found["y"][:300])
    shutil.copy(shared_data / "weights" / "cifar10_resnet20.safetensors", folder / "m.safetensors")
    said = pruned(
        fsurgeon, folder / "m.safetensors", *RESNET20, "--target", "macs=0.7x",
        "--data", folder / "photographs.npz", "--plan", folder / "plan.yaml",
        "--picture", folder / "plan.png", out=folder / "slim.safetensors",
    )  # fmt: skip
    return folder, said


def accuracy(path: Path, shared_data: Path, count: int = 1000) -> float:
    checkpoint = fs.load(path, arch="factory:examples.zoo.networks:cifar_resnet20")
    test = fs.DataSpec(str(shared_data / "cifar10" / "test.npz"), subset=count)
    return fs.evaluate(checkpoint, test, preprocess=CIFAR_CFG).accuracy


@pytest.mark.slow
def test_accuracy_is_kept_on_a_real_network(slim, shared_data):
    folder, said = slim
    before, after = (
        accuracy(folder / f"{name}.safetensors", shared_data) for name in ("m", "slim")
    )
    assert before > 0.9
    assert after > before - 0.03
    assert "matches the original with the removed channels silenced to" in said
    assert "of 60 held-out images, KL" in said
    assert "warning" not in said
    assert "kept whole (a residual stream): conv1" in said
    reached = float(said.split("MACs ")[1].split("(")[1].split("%")[0])
    assert 69 <= reached <= 70


@pytest.mark.slow
def test_a_plan_is_written_changed_and_carried_out(slim, fsurgeon):
    folder, _ = slim
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "plan.yaml").read_text()
    plan = fs.CutPlan.read(str(folder / "plan.yaml"))
    assert len(plan.bundles) == 9
    name, bundle = next((n, b) for n, b in plan.bundles.items() if 5 < b.keep < b.width)
    wanted = {**plan.keep, name: bundle.keep - 3}
    edited = folder / "edited.yaml"
    lines, inside = [], False
    for line in text.splitlines():
        inside = line == f"  {name}:" or (inside and line.startswith("    "))
        lines.append(f"    keep: {bundle.keep - 3}" if inside and "keep:" in line else line)
    edited.write_text("\n".join(lines))
    pruned(
        fsurgeon, folder / "m.safetensors", *RESNET20, "--plan", edited,
        "--data", folder / "photographs.npz", "--subset", "64", out=folder / "edited.safetensors",
    )  # fmt: skip
    weights = load_file(folder / "edited.safetensors")
    assert {layer: len(weights[f"{layer}.weight"]) for layer in wanted} == wanted
    assert edited.read_text() == "\n".join(lines)  # It was read, not written.


# Small networks.


def test_without_images_the_accuracy_is_unknown(fsurgeon, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(NETWORK)
    scope: dict = {}
    exec(NETWORK, scope)
    torch.manual_seed(0)
    state = scope["small"]().state_dict()
    save_file({name: tensor.numpy() for name, tensor in state.items()}, "m.safetensors")
    said = pruned(fsurgeon, "m.safetensors", "--factory", "mine:small", "--target", "macs=0.6x")
    assert "accuracy unknown: no images were passed (--data shows it" in said
    assert "images made from the network's own batch norms" in said
    assert "same class on" not in said
    assert load_file("out.safetensors")["0.weight"].shape[0] < 16
    # The history names what was done, and no images.
    entry = fs.load("out.safetensors", arch="factory:mine:small").history[-1]
    assert entry.options["target"] == "macs=0.6x"
    assert entry.options["compensate"] == "sequential"
    assert not entry.data


def test_a_network_without_batch_norm_needs_images(refuse, digits):  # noqa: F811
    said = refuse("prune", *LE, "--target", "macs=0.6x", "-o", "out.safetensors", folder=digits)
    assert "--data" in said


def test_a_network_without_inner_channels(refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(NETWORK)
    random = np.random.default_rng(0)
    save_file(
        {"0.weight": random.random((4, 3, 3, 3), np.float32), "0.bias": np.ones(4, np.float32)},
        "m.safetensors",
    )
    np.savez("d.npz", x=random.integers(0, 255, (20, 16, 16, 3), np.uint8), y=np.arange(20) % 4)
    said = refuse("prune", "m.safetensors", "--factory", "mine:alone", "--target", "macs=0.6x",
                  "--data", "d.npz", "-o", "out.safetensors", folder=tmp_path)  # fmt: skip
    assert "no channel can be cut: 0 keeps all channels, leaves the network" in said


def test_streams_are_cut_only_where_a_target_needs_it(fsurgeon, refuse, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(NETWORK)
    scope: dict = {}
    exec(NETWORK, scope)
    torch.manual_seed(0)
    state = scope["residual"]().state_dict()
    save_file({name: tensor.numpy() for name, tensor in state.items()}, "m.safetensors")
    random = np.random.default_rng(0)
    np.savez("d.npz", x=random.integers(0, 255, (24, 16, 16, 3), np.uint8))
    network = ("m.safetensors", "--factory", "mine:residual", "--data", "d.npz")

    said = pruned(fsurgeon, *network, "--target", "macs=0.7x")
    assert "kept whole (a residual stream): 0" in said
    assert load_file("out.safetensors")["0.weight"].shape[0] == 16

    small = (*network, "--target", "macs=0.05x")
    said = pruned(fsurgeon, *small, "--plan", "p.yaml")
    assert "residual streams are cut, too" in said
    weights = load_file("out.safetensors")
    assert weights["0.weight"].shape[0] < 16
    assert weights["3.second.0.weight"].shape[0] == weights["0.weight"].shape[0]
    pruned(fsurgeon, *network, "--plan", "p.yaml", out="again.safetensors")
    assert {n: w.shape for n, w in load_file("again.safetensors").items()} == {
        n: w.shape for n, w in weights.items()
    }

    said = refuse("prune", *small, "--streams", "keep", "-o", "no.safetensors", folder=tmp_path)
    assert "--target macs=0.05x cannot be reached" in said
    assert "--streams cut may reach further" in said


@pytest.mark.slow
@pytest.mark.parametrize(("share", "streams"), [(0.7, False), (0.3, True)])
def test_streams_are_cut_where_that_loses_less(share, streams, shared_data):
    weights = shared_data / "weights" / "cifar10_resnet20.safetensors"
    checkpoint = fs.load(weights, arch="factory:examples.zoo.networks:cifar_resnet20")
    run = fs.ImageRun(
        fs.DataSpec(str(shared_data / "cifar10" / "train_10k.npz"), subset=300), CIFAR_CFG
    )
    target = f"macs={share}x"
    reports = {}
    for way in (None, "keep", "cut"):
        done: list = []
        fs.prune(checkpoint, target=target, streams=way, data=run, observe=done.append)
        reports[way] = done[0]
    own, kept, cut = (reports[way].worth.divergence for way in (None, "keep", "cut"))
    assert own == (cut if streams else kept)
    assert (cut < kept) or not streams
    assert streams == any("streams are cut, too" in note for note in reports[None].notes)


def test_the_same_words_give_the_same_bytes(fsurgeon, digits):  # noqa: F811
    words = (*LE, *IMAGES, "--target", "macs=0.5x")
    pruned(fsurgeon, *words, "--plan", "a.yaml", out="a.safetensors")
    pruned(fsurgeon, *words, "--plan", "b.yaml", out="b.safetensors")
    assert (digits / "a.safetensors").read_bytes() == (digits / "b.safetensors").read_bytes()
    assert (digits / "a.yaml").read_bytes() == (digits / "b.yaml").read_bytes()


@pytest.mark.usefixtures("digits")
def test_less_than_nine_tenths_are_warned_of(fsurgeon):
    agreements = []
    for words in (("macs=0.8x",), ("macs=0.2x", "--compensate", "none")):
        said = pruned(fsurgeon, *LE, *IMAGES, "--target", *words)
        share = float(said.split("same class on ")[1].split("%")[0]) / 100
        assert ("warning: only" in said) == (share < 0.9), said
        agreements.append(share)
    assert agreements[0] >= 0.9 > agreements[1]


@pytest.mark.usefixtures("digits")
def test_a_ranking_may_choose_and_shares_may_be_equal(fsurgeon):
    done = fsurgeon("prune", *LE, *IMAGES, "--target", "params=0.5x", "--select", "l2",
                    "--allocate", "uniform", "-o", "out.safetensors", "--dry-run",
                    "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    before, after = report["parameters"]
    assert 0.4 * before < after <= 0.5 * before
    assert report["worth"]["held_out"]
    assert report["worth"]["images"] == 12
    # Norms of the filters choose, whatever the images say.
    checkpoint = fs.load("le.safetensors", arch="factory:examples.zoo.networks:lenet5")
    pruned(fsurgeon, *LE, *IMAGES, "--target", "params=0.5x", "--select", "l2",
           "--allocate", "uniform", "--compensate", "none")  # fmt: skip
    first = next(name for name in checkpoint if checkpoint[name].shape[1:] == (1, 5, 5))
    filters = checkpoint[first].array()
    kept = load_file("out.safetensors")[first]
    norms = np.linalg.norm(filters.reshape(len(filters), -1), axis=1)
    best = np.sort(np.argsort(-norms)[: len(kept)])
    np.testing.assert_array_equal(kept, filters[best])


@pytest.mark.usefixtures("digits")
def test_shares_of_every_layer_refitted_front_to_back(fsurgeon):
    words = (*LE, "--sparsity", "0.4", "--per-layer", "--method", "l2")
    right = {}
    for kind in ("none", "sequential"):
        images = IMAGES if kind == "sequential" else ()
        said = pruned(fsurgeon, *words, *images, "--compensate", kind)
        assert ("same class on" if images else "accuracy unknown") in said
        checkpoint = fs.load("out.safetensors", arch="factory:examples.zoo.networks:lenet5")
        right[kind] = fs.evaluate(checkpoint, fs.DataSpec("digits.npz", "test")).accuracy
    assert checkpoint.history[-1].options["compensate"] == "sequential"
    assert right["sequential"] > right["none"]


# Bad input.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "macs=0.5x", *IMAGES[:3], "5"), "5 images are too few"),
        (("--target", "macs=0.001x", *IMAGES), "x is left when"),
        (("--target", "latency=0.7x", "--per-layer"), "measured allocation"),
        (("--target", "macs=0.5x", "--select", "magnitude", *IMAGES), "magnitude"),
        (("--target", "macs=0.5x", "--allocate", "evenly", *IMAGES), "measured"),
        (("--target", "macs=0.5x", "--select", "l2", "--method", "l2", *IMAGES), "--select"),
        (("--sparsity", "0.5", "--allocate", "measured", *IMAGES), "--target"),
        (("--target", "macs=0.5x", "--per-layer", "--streams", "cut", *IMAGES), "--per-layer"),
        (("--target", "macs=0.5y", *IMAGES), "macs=0.5x"),
        (("--plan", "other.yaml", *IMAGES), "no bundle of this network"),
        (("--plan", "broken.yaml", *IMAGES), "no plan can be read"),
        (("--plan", "wide.yaml", *IMAGES), "which has"),
        (("--plan", "none.yaml", *IMAGES), "no plan can be read"),
    ],
)  # fmt: skip
def test_bad_words(words, said, refuse, digits):  # noqa: F811
    head = f"format: {FORMAT}\nbundles:\n"
    (digits / "other.yaml").write_text(head + "  layer1.0.conv1: 3\n")
    (digits / "broken.yaml").write_text("bundles: [1,\n")
    first = next(name for name in load_file("le.safetensors") if name.endswith("weight"))
    (digits / "wide.yaml").write_text(head + f"  {first.removesuffix('.weight')}: 99\n")
    found = refuse("prune", *LE, *words, "-o", "out.safetensors", folder=digits)
    assert said in found
    assert len(found) < 220


def test_weights_that_are_no_numbers(refuse, digits):  # noqa: F811
    weights = load_file("le.safetensors")
    name = [name for name in weights if name.endswith("weight")][1]
    weights[name] = np.full_like(weights[name], np.nan)
    with safe_open("le.safetensors", "np") as whole:
        save_file(weights, "nan.safetensors", whole.metadata())
    said = refuse("prune", "nan.safetensors", *LENET, *IMAGES, "--target", "macs=0.5x",
                  "-o", "out.safetensors", folder=digits)  # fmt: skip
    assert "not finite" in said
    assert name.removesuffix(".weight") in said


def test_a_plan_needs_a_target(fsurgeon, digits):  # noqa: F811
    said = pruned(fsurgeon, *LE, "--sparsity", "0.5", "--method", "lamp", "--plan", "p.yaml",
                  check=False)  # fmt: skip
    assert "--target" in said
    assert not (digits / "p.yaml").exists()


# Which of several cuts is taken.


def kept(agreement, divergence, **words):
    worth = Worth(100, held_out=True, agreement=agreement, divergence=divergence)
    return SimpleNamespace(worth=worth, **words)


@pytest.mark.parametrize(
    ("measured", "uniform", "taken", "tried"),
    [
        ((0.99, 0.01), (0.99, 0.001), "measured", False),  # good enough, so nothing else is tried
        ((0.60, 1.0), (0.65, 0.8), "uniform", True),
        ((0.60, 1.0), (0.65, 1.2), "measured", True),  # the divergence decides
        ((None, 0.16), (None, 0.14), "uniform", True),
        ((None, 0.09), (None, 0.01), "measured", False),
    ],
)
def test_equal_shares_are_tried_where_measured_ones_ruin(
    monkeypatch, measured, uniform, taken, tried
):
    asked = []

    def fake(prepared, settings, **_):
        asked.append(settings.allocate)
        return kept(*(measured if settings.allocate == "measured" else uniform), prepared=prepared)

    monkeypatch.setattr(reconstruct, "reconstruct", fake)
    settings = PruneSettings(target=read_target("macs=0.3x"), allocate="measured")
    prepared = PreparedCuts(None, None, None)
    found, notes, used = prepared._share_out(settings, None)
    assert used.allocate == taken
    assert found.worth.divergence == (measured if taken == "measured" else uniform)[1]
    assert ("uniform" in asked) == tried
    assert bool(notes) == (taken == "uniform")
    asked.clear()
    replace(prepared, equal=False)._share_out(settings, None)
    assert asked == ["measured"]
