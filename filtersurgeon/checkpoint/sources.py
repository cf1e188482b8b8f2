"""Reading checkpoints from files, folders and streams."""

from __future__ import annotations

import sys
from pathlib import Path

from filtersurgeon.checkpoint.bytesource import ByteSource, open_stream
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.folder import read_any, read_folder
from filtersurgeon.checkpoint.pickled import PREFIX_BYTES, looks_pickled, read_pickled
from filtersurgeon.checkpoint.safetensors import read_safetensors
from filtersurgeon.errors import CheckpointError

STDIN = "-"


def read_source(source: str, allow_pickle: bool = False) -> Checkpoint:
    """Read a file, a folder, or with ``-`` standard input.

    Raises:
        CheckpointError: it is missing, corrupt, or not a checkpoint.
    """
    if source == STDIN:
        return read_stream(open_stream(sys.stdin.buffer), allow_pickle)
    if not source:
        raise CheckpointError("the name of the input is empty; give a file, a folder, or timm:NAME")
    path = Path(source)
    return read_folder(path, allow_pickle) if path.is_dir() else read_any(path, allow_pickle)


def read_stream(source: ByteSource, allow_pickle: bool = False) -> Checkpoint:
    """Read a checkpoint from an open stream, safetensors or a PyTorch archive."""
    if looks_pickled(source.peek(PREFIX_BYTES)):
        return read_pickled(source, allow_pickle)
    try:
        return read_safetensors(source)
    except CheckpointError:
        source.close()
        raise
