"""One new file is enough: a ranking method, a bank, a transform and a compensation.

As CONTRIBUTING shows it, each file is written into its folder of a copy of the package, and nothing
else is edited. Then the commands and the Python functions find it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from workshop import PATIENCE, ROOT

FILES = {
    "ranking/methods/my_method.py": '''
"""Sum of the weights."""

def my_method(filters, *, sign: float = 1.0):
    """Score N filters of l weights, ``(N, l)``, by their sum."""
    return sign * filters.sum(axis=1)
''',
    "ranking/methods/my_images.py": '''
"""Mean of the images times the number of weights; looks at images."""

import numpy as np

from filtersurgeon.data.data import open_data
from filtersurgeon.data.data import as_run
from filtersurgeon.learn.networks import open_network

def my_images(checkpoint, layers, data, progress=None):
    """Score every kernel by its place."""
    network = open_network(checkpoint)
    images = open_data(as_run(data).data, network.preprocessing, network.n_classes)
    return {
        x.name: np.arange(float(x.n_kernels)).reshape(x.shape[:2]) + len(images) for x in layers
    }
''',
    "ranking/methods/my_filters.py": '''
"""Place of a filter in its layer."""

import numpy as np

from filtersurgeon.ranking.method import filters_only

@filters_only
def my_filters(filters):
    """Score N filters, ``(N, l)``, by their index."""
    return np.arange(float(len(filters)))
''',
    "banks/builtin/my_bank.py": '''
"""A column and a row of ones."""

import numpy as np

from filtersurgeon.banks.bank import FilterBank

def my_bank(size):
    """Make the bank."""
    kernels = np.zeros((2, *size))
    kernels[0, :, 0] = kernels[1, 0] = 1
    return FilterBank("my-bank", kernels, ("column", "row"))
''',
    "transforms/my_transform.py": '''
"""Multiply a tensor."""

from filtersurgeon.checkpoint import HistoryEntry, StoredTensor

def my_transform(checkpoint, *, name: str = "0.weight", factor: float = 2.0):
    """Multiply a tensor by a factor."""
    changed = {name: StoredTensor.from_array(factor * checkpoint[name].array(), "F32")}
    return checkpoint.edited(HistoryEntry("my-transform", {"factor": factor}), changed, "scaled")
''',
    "pruning/compensation/kinds/my_kind.py": '''
"""Set the last bias to sevens."""

def my_kind(opened, keep, changed):
    """Give the tensors that change."""
    return {**changed, "5.bias": 0 * opened.network.get_parameter("5.bias").detach() + 7}
''',
}
NETWORK = """
from torch import nn

def network():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )
"""

API = """
import json, sys
import numpy as np
import filtersurgeon as fs

net = fs.load("m.safetensors", arch="factory:mine:network")
found = {"method": fs.rank(net, "my-method", options={"sign": -1}).layers["0"].scores.tolist()}
found["kernels"] = fs.kernel_scores(net, "my-method").layers["0"].tolist()
data = fs.DataSpec("images.npz")
found["images"] = fs.rank(net, "my-images", data=data).layers["0"].scores.tolist()
found["image kernels"] = fs.kernel_scores(net, "my-images", data=data).layers["0"].tolist()
found["filters"] = fs.rank(net, "my-filters").layers["0"].order.tolist()
found["replaced"] = fs.replace(net, bank="my-bank")["2.weight"].array().tolist()
scaled = fs.apply(net, [fs.RecipeStep("my-transform", {"factor": 3.0})])
found["applied"] = scaled["0.weight"].array().tolist()
for name, words in {
    "channelprune": {"method": "my-method"},
    "per layer": {"method": "my-filters", "per_layer": True},
    "by images": {"method": "my-images", "data": "images.npz"},
}.items():
    cut = fs.prune(net, sparsity=0.5, compensate="my-kind", **words)
    found[name] = [list(cut["0.weight"].shape), cut["5.bias"].array().tolist()]
json.dump(found, sys.stdout)
"""


class Place:
    """A folder with a copy of the package, a network and images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "filtersurgeon"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "filtersurgeon", package, ignore=ignored)
        for name, text in FILES.items():
            (package / name).write_text(text.lstrip())
        (folder / "mine.py").write_text(NETWORK)
        random = np.random.default_rng(0)
        shapes = {"0.weight": (8, 3, 3, 3), "0.bias": (8,), "2.weight": (8, 1, 3, 3),
                  "2.bias": (8,), "5.weight": (2, 8), "5.bias": (2,)}  # fmt: skip
        self.tensors = {k: random.standard_normal(size).astype("f4") for k, size in shapes.items()}
        save_file(self.tensors, folder / "m.safetensors")
        images = random.integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
        np.savez(folder / "images.npz", x=images, y=np.array([0, 1, 0, 1]))

    def python(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run Python with the copy of the package."""
        return subprocess.run(
            [sys.executable, *map(str, words)], cwd=self.folder, capture_output=True, text=True,
            timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(self.folder)},
        )  # fmt: skip

    def fsurgeon(self, *words: object) -> str:
        """Run a command that must succeed; gives what it printed."""
        done = self.python("-m", "filtersurgeon", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("drop-in"))


def _closest(kernels: np.ndarray) -> np.ndarray:
    """Fit a column or a row of ones, with an offset, by ordinary least squares."""
    found = []
    for kernel in kernels.reshape(-1, 9):
        fits = []
        for member in (np.eye(3)[[0, 0, 0]], np.eye(3)[[0, 0, 0]].T):
            columns = np.stack([member.ravel(), np.ones(9)], axis=1)
            fits.append(columns @ np.linalg.lstsq(columns, kernel, rcond=None)[0])
        found.append(min(fits, key=lambda fit: np.square(fit - kernel).sum()))
    return np.reshape(found, kernels.shape)


def test_python_finds_them(place):
    done = place.python("-c", API)
    assert done.returncode == 0, done.stderr
    found, weight = json.loads(done.stdout), place.tensors["0.weight"].astype(float)
    np.testing.assert_allclose(found["method"], -weight.sum((1, 2, 3)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["kernels"], weight.sum((2, 3)), rtol=1e-5, atol=1e-5)
    numbers = np.arange(24.0).reshape(8, 3) + 4
    np.testing.assert_array_equal(found["image kernels"], numbers)
    np.testing.assert_array_equal(found["images"], numbers.sum(1))
    assert found["filters"] == list(range(8))[::-1]
    expected = _closest(place.tensors["2.weight"].astype(float))
    np.testing.assert_allclose(found["replaced"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["applied"], 3 * weight, rtol=1e-6)
    for name in ("channelprune", "per layer", "by images"):
        (kept, *_), bias = found[name]
        assert 1 <= kept < 8
        assert bias == [7, 7]
    assert found["per layer"][0][0] == 4


def test_the_methods_are_listed_and_shown_in_the_help(place):
    listed = json.loads(place.fsurgeon("rank", "--list", "--json"))["methods"]
    assert {"my-method", "my-images", "my-filters"} <= {method["name"] for method in listed}
    names = ",".join(sorted(method["name"] for method in listed)[:-1])
    helps = {verb: "".join(place.fsurgeon(verb, "--help").split()) for verb in ("rank", "prune")}
    assert names in helps["rank"]
    assert names in helps["prune"]
    assert "my-kind" in helps["prune"]


def test_commands_find_them(place):
    ranked = json.loads(place.fsurgeon("rank", "m.safetensors", "-m", "my-method", "--json"))
    assert ranked["method"] == "my-method"
    weight = place.tensors["0.weight"].astype(float)
    first = next(layer for layer in ranked["layers"] if layer["name"] == "0")
    np.testing.assert_allclose(first["scores"], weight.sum((1, 2, 3)), rtol=1e-5, atol=1e-5)
    place.fsurgeon("replace", "m.safetensors", "--bank", "my-bank", "-o", "replaced.safetensors")
    expected = _closest(place.tensors["2.weight"].astype(float))
    got = load_file(place.folder / "replaced.safetensors")["2.weight"]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    (place.folder / "recipe.yaml").write_text("steps: [{my-transform: {factor: 5}}]")
    place.fsurgeon("apply", "recipe.yaml", "m.safetensors", "-o", "applied.safetensors")
    got = load_file(place.folder / "applied.safetensors")["0.weight"]
    np.testing.assert_allclose(got, 5 * weight, rtol=1e-6)
    place.fsurgeon("prune", "m.safetensors", "--factory", "mine:network", "-s", "0.5", "-m",
                   "my-method", "--compensate", "my-kind", "-o", "cut.safetensors")  # fmt: skip
    got = load_file(place.folder / "cut.safetensors")
    assert got["0.weight"].shape[0] < 8
    assert got["5.bias"].tolist() == [7, 7]


def test_a_method_of_filters_is_refused_for_kernels_with_those_that_fit(place):
    done = place.python("-m", "filtersurgeon", "prune", "m.safetensors", "--factory",
                        "mine:network", "-s", "0.5", "-m", "my-filters", "--dry-run")  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: my-filters ranks filters, not kernels; add --per-layer")
    fit = "score kernels with l1, l2, lamp, my-images, my-method, random or saliency\n"
    assert done.stderr.endswith(fit)
