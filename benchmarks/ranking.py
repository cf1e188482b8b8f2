"""Seconds and memory to rank whole networks by archetypes, against what is promised.

Weights are drawn at random, of the networks' own shapes: these are the hardest, for their filters
lie in no common directions. Times are of a process that has torch loaded; memory is of the whole
command.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.measure import Row, peak_memory
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.networks.files import save
from filtersurgeon.networks.skeleton import skeleton
from filtersurgeon.ranking import rank

JOBS = (
    ("spatial layers of resnet50", "torchvision:resnet50", None, 5.0),
    ("spatial layers of vgg16", "torchvision:vgg16", None, 5.0),
    ("all convolutions of resnet50", "torchvision:resnet50", ("*",), 60.0),
    ("depthwise layers of convnextv2_tiny", "timm:convnextv2_tiny", ("*.conv_dw",), 10.0),
)
LIMIT_MB = 1500.0


def _weights(architecture: str) -> Checkpoint:
    rng = np.random.default_rng(0)
    shapes = {
        f"{name}.weight": tuple(module.weight.shape)
        for name, module in skeleton(architecture).named_modules()
        if getattr(module, "weight", None) is not None and module.weight.ndim == 4
    }
    tensors = {
        name: StoredTensor.from_array(rng.standard_normal(shape, dtype=np.float32), "F32")
        for name, shape in shapes.items()
    }
    return Checkpoint(tensors)


def run() -> Iterator[Row]:
    rank(_weights("torchvision:resnet18"), layers=("conv1",))  # compiles what is compiled
    for what, architecture, layers, limit in JOBS:
        checkpoint = _weights(architecture)
        begin = perf_counter()
        rank(checkpoint, layers=layers)
        yield Row(f"rank {what} : limit", perf_counter() - begin, limit, "s", 1.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet50.safetensors"
        save(_weights("torchvision:resnet50"), path)
        command = [sys.executable, "-m", "filtersurgeon", "rank", "--layers", "*", str(path)]
        used = peak_memory([*command, "--quiet"])
    yield Row("memory of rank, all of resnet50 : limit", used, LIMIT_MB, "MB", 1.0)
