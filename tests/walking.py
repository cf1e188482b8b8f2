"""What the tests of the walk share: images, pages, and what torch says of a layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import filtersurgeon as fs
from filtersurgeon.checkpoint import Checkpoint

FLAGS = ["--headless", "--no-sandbox", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # fmt: skip


def write_image(path: Path, size: int, seed: int = 0) -> Path:
    """Write a smooth picture of exactly this size, which no network needs to resize."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
    coarse.resize((size, size), Image.Resampling.BICUBIC).save(path)
    return path


def as_input(path: Path, checkpoint: Checkpoint) -> Tensor:
    """Normalise a picture as the network's own configuration says."""
    cfg = checkpoint.pretrained_cfg or {}
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
    mean, std = cfg.get("mean", (0.485, 0.456, 0.406)), cfg.get("std", (0.229, 0.224, 0.225))
    normal = (pixels - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(normal.transpose(2, 0, 1))[None]


def torch_maps(checkpoint: Checkpoint, image: Tensor, layers: list[str]) -> dict[str, np.ndarray]:
    """Run the network by itself and note what modules give, ``(channels, height, width)``."""
    model = fs.build(checkpoint)
    found: dict[str, np.ndarray] = {}

    def hook(name: str) -> object:
        def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            maps = output[0].clone().numpy()
            found.setdefault(name, maps.reshape(len(maps), *maps.shape[1:] or (1, 1)))

        return keep

    for name in layers:
        model.get_submodule(name).register_forward_hook(hook(name))
    with torch.no_grad():
        model(image)
    return found
