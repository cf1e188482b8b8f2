"""Valid small inputs, and the places from which readers take hostile ones."""

from __future__ import annotations

import atexit
import io
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch  # noqa: F401 - whatever a reader imports late would count as its memory

from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.bytesource import ByteSource, open_stream
from filtersurgeon.checkpoint.checkpoint import HistoryEntry
from filtersurgeon.checkpoint.safetensors import LENGTH_BYTES
from filtersurgeon.checkpoint.sinks import write_stream

_MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
FOLDER = Path(tempfile.mkdtemp(prefix="fsurgeon-fuzz-", dir=_MEMORY))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)


def place(name: str, content: bytes) -> Path:
    """Put a case where its reader finds it by path."""
    path = FOLDER / name
    path.write_bytes(content)
    return path


def as_file(content: bytes) -> ByteSource:
    """Open a case as a regular file."""
    handle = os.memfd_create("case")
    os.write(handle, content)
    os.lseek(handle, 0, os.SEEK_SET)
    return open_stream(os.fdopen(handle, "rb"), "case")


def as_pipe(content: bytes) -> ByteSource:
    """Open a case as a pipe whose writer is gone; it has to fit into the pipe."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as file:
        file.write(content)
    return open_stream(os.fdopen(reading, "rb"), "case")


def checkpoint(**description: object) -> Checkpoint:
    """Make a checkpoint of four small layers, with whatever it says of itself."""
    random = np.random.default_rng(0)
    arrays = {
        "stem.weight": random.standard_normal((8, 3, 3, 3)),
        "dw.weight": random.standard_normal((8, 1, 3, 3)),
        "pw.weight": random.standard_normal((4, 8, 1, 1)),
        "head.bias": random.standard_normal(4),
    }
    types = {"dw.weight": "F16", "head.bias": "F64"}
    tensors = {k: StoredTensor.from_array(v, types.get(k, "F32")) for k, v in arrays.items()}
    return Checkpoint(tensors, **description)  # type: ignore[arg-type]


def history() -> tuple[HistoryEntry, ...]:
    """Make a history of two steps."""
    return (
        HistoryEntry("replace", {"bank": "dog8", "layers": ["dw"]}, "0.1", "sha256:0"),
        HistoryEntry("prune", {"sparsity": 0.5}, "0.1", resources={"own": "sha256:1"}),
    )


def written(content: Checkpoint) -> bytes:
    """Write a checkpoint as safetensors."""
    file = io.BytesIO()
    write_stream(content, file)
    return file.getvalue()


def with_length(case: bytes) -> bytes:
    """Make the length before a safetensors header right again, where a brace still ends it."""
    end = case.rfind(b"]}}", 0, 20_000) + 3
    if end <= LENGTH_BYTES:
        return case
    end += len(case[end:]) - len(case[end:].lstrip(b" "))
    return (end - LENGTH_BYTES).to_bytes(LENGTH_BYTES, "little") + case[LENGTH_BYTES:]


def look_through(source: Checkpoint) -> None:
    """Read every tensor, block by block, and what the checkpoint says of itself."""
    with source as opened:
        for name in opened:
            size = sum(memoryview(block).nbytes for block in opened[name].blocks())
            assert size == opened[name].nbytes
        opened.metadata()
