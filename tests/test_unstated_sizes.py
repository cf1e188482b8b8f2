"""Networks of the user's own that take one size of image, which nothing states."""

import importlib

import pytest
import torch
from safetensors.torch import save_file

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.build import build
from filtersurgeon.networks.dry_run import find_size

NETWORKS = """
import torch
from torch import nn
from torch.nn import functional


class Flat(nn.Module):
    def __init__(self, side, channels=3):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.head = nn.Linear(8 * side * side, 4)

    def forward(self, x):
        return self.head(self.stem(x).relu().flatten(1))


class Pixels(nn.Module):
    def __init__(self, fused):
        super().__init__()
        self.fused = fused
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.key = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x).relu().flatten(2).transpose(1, 2)
        if self.fused:
            x = functional.scaled_dot_product_attention(x, self.key(x), x)
        else:
            x = (x @ self.key(x).transpose(1, 2)).softmax(-1) @ x
        return self.head(x.mean(1))


def digits():
    return Flat(28, 1)


def tiny():
    return Flat(16)


def odd():
    return Flat(100)


def attention():
    return Pixels(False)


def fused_attention():
    return Pixels(True)
"""


@pytest.fixture
def checkpoint_of(tmp_path, monkeypatch):
    """A function that stores a network of NETWORKS as a bare state dict, and reads it."""
    (tmp_path / "sized_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)

    def stored(name):
        torch.manual_seed(0)
        network = getattr(importlib.import_module("sized_networks"), name)()
        save_file(network.state_dict(), tmp_path / f"{name}.safetensors")
        return fs.load(tmp_path / f"{name}.safetensors", arch=f"factory:sized_networks:{name}")

    return stored


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("digits", (1, 28, 28)),
        ("tiny", (3, 16, 16)),
        # The product of all queries and keys of 224x224 pixels has 2.5e9 numbers.
        ("attention", (3, 32, 32)),
        ("fused_attention", (3, 32, 32)),
    ],
)
def test_a_usual_size_that_the_layers_take_is_found(checkpoint_of, name, size):
    checkpoint = checkpoint_of(name)
    assert find_size(build(checkpoint), checkpoint) == size


def test_networks_of_an_unstated_size_are_pruned_silenced_and_compared(checkpoint_of):
    checkpoint = checkpoint_of("digits")
    pruned = fs.prune(checkpoint, per_layer=True, sparsity=0.5)
    assert pruned["stem.weight"].shape == (4, 1, 3, 3)
    assert pruned["head.weight"].shape == (4, 4 * 28 * 28)
    silenced = fs.silence(checkpoint, method="l1", worst=0.5)
    assert int((silenced["stem.weight"].array() == 0).all((1, 2, 3)).sum()) == 4
    assert fs.compare([checkpoint, checkpoint], random=2).difference.absolute_max == 0


def test_the_remedy_of_an_unusual_size_is_told(checkpoint_of):
    checkpoint = checkpoint_of("odd")
    words = r"takes no image of a usual size \(at head, .*\); state its size with `input_size`$"
    with pytest.raises(ArchitectureError, match=words):
        fs.prune(checkpoint, per_layer=True, sparsity=0.5)
    stated = fs.load(checkpoint.name, arch=checkpoint.architecture, input_size="3,100,100")
    assert fs.prune(stated, per_layer=True, sparsity=0.5)["stem.weight"].shape == (4, 3, 3, 3)
