"""Small real data and networks for the tests of ``eval``, ``compare`` and ``tune``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ZOO = Path(__file__).parents[1] / "examples" / "zoo"
LENET = ("--factory", "examples.zoo.networks:lenet5")

MINE = """
from torch import nn

def depthwise(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 5, groups=4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, num_classes),
    )

def three():
    return depthwise(3)
"""


@pytest.fixture
def digits(tmp_path, monkeypatch) -> Path:
    """Enter a folder with LeNet-5, scikit-learn's digits, and a module of networks."""
    from examples.zoo.train import write_digits

    monkeypatch.chdir(tmp_path)
    shutil.copy(ZOO / "lenet5_digits.safetensors", tmp_path / "le.safetensors")
    write_digits(tmp_path / "digits.npz")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def write_folders(root: Path, names: str, count: int = 2, mode: str = "L") -> None:
    """Write images of noise, a folder for every letter of ``names``."""
    random = np.random.default_rng(0)
    shape = (28, 28) if mode == "L" else (28, 28, 3)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")


def write_network(path: Path, factory: str, seed: int = 0, **metadata: str) -> dict:
    """Write a network of ``mine.py`` with random weights; gives its tensors."""
    import torch
    from safetensors.torch import save_file

    scope: dict = {}
    exec(MINE, scope)
    torch.manual_seed(seed)
    state = scope[factory]().state_dict()
    save_file(state, path, {"format": "pt", **metadata})
    return state
