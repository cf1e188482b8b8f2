"""Small networks and data for the tests of ``filtersurgeon.learn``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import filtersurgeon as fs
from filtersurgeon.data.images import LabelledImages
from filtersurgeon.data.preprocess import array_transform, read_preprocessing
from filtersurgeon.data.sources import array_images

torch.set_num_threads(1)

SHARED = Path(__file__).parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data folder")
CIFAR_CFG = {
    "input_size": (3, 32, 32),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def small_cfg(channels: int = 3, size: int = 8) -> dict:
    return {
        "input_size": (channels, size, size),
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
    }


def stripes(count: int = 48, seed: int = 0, size: int = 8) -> LabelledImages:
    """Noisy images of two classes: horizontal and vertical stripes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    wave = (np.arange(size) % 2) * 120
    pixels = random.integers(0, 130, (count, size, size, 3), dtype=np.uint8)
    pixels[labels == 0] += wave.astype(np.uint8)[None, :, None, None]
    pixels[labels == 1] += wave.astype(np.uint8)[None, None, :, None]
    transform = array_transform(read_preprocessing(small_cfg(size=size)))
    source = array_images(pixels, labels, "stripes")
    return LabelledImages(source, range(count), transform, 3, direct=True)


class TinyNet(nn.Module):
    """Standard, depthwise and pointwise convolutions, normalisation, optional dropout."""

    def __init__(self, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.pointwise = nn.Conv2d(8, 8, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(self.pointwise(self.depthwise(x)))
        return self.head(self.dropout(x.mean((2, 3))))


def tiny_net(seed: int = 0, **options) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet(**options)


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def noise_images(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Make 24 images of noise ``(24, 3, side, side)``, and labels of three classes."""
    rng = np.random.default_rng(1)
    return rng.standard_normal((24, 3, side, side)).astype(np.float32), np.arange(24) % 3


def arrays(checkpoint: fs.Checkpoint) -> dict[str, np.ndarray]:
    """Give a checkpoint's float32 tensors by name."""
    return {
        name: checkpoint[name].array() for name in checkpoint if checkpoint[name].dtype == "F32"
    }
