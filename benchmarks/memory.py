"""Peak memory of a streamed replace of a 2 GB file, above an interpreter with torch imported."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import Row, peak_memory
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.networks.files import save

LAYERS, FILTERS, SIZE = 10, 1_024_000, 7
ALLOWANCE = 600.0


def large_checkpoint(path: Path) -> int:
    """Write 10 depthwise layers of 200 MB each; gives the size of one in bytes."""
    kernels = np.random.default_rng(0).standard_normal((FILTERS, 1, SIZE, SIZE), dtype=np.float32)
    layer = StoredTensor.from_array(kernels, "F32")
    pointwise = StoredTensor.from_array(np.zeros((FILTERS, 4), np.float32), "F32")
    tensors = {f"blocks.{i}.dw.weight": layer for i in range(LAYERS)}
    save(Checkpoint({**tensors, "head.weight": pointwise}), path)
    return layer.nbytes


def run() -> Iterator[Row]:
    replace = [sys.executable, "-m", "filtersurgeon", "replace", "--bank", "dog8", "--quiet"]
    base = peak_memory([sys.executable, "-c", "import torch"])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "large.safetensors"
        large_checkpoint(source)
        through_file = peak_memory([*replace, str(source)])
        through_pipe = peak_memory(replace, stdin=str(source))
    for name, used in (("file", through_file), ("pipe", through_pipe)):
        # A ratio below one keeps the promise of less than 600 MB above torch.
        limit = base + ALLOWANCE
        yield Row(f"memory of replace, 2 GB {name} : limit", used, limit, "MB", 1.0)
