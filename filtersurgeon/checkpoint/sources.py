"""``load``: one door for every kind of input."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from filtersurgeon.checkpoint.bytesource import ByteSource, open_stream
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.folder import read_any, read_folder
from filtersurgeon.checkpoint.naming import prefixed, split_arguments
from filtersurgeon.checkpoint.pickled import PREFIX_BYTES, looks_pickled, read_pickled
from filtersurgeon.checkpoint.safetensors import read_safetensors
from filtersurgeon.errors import CheckpointError

STDIN = "-"


def load(
    source: str | os.PathLike[str], *, arch: str | None = None, allow_pickle: bool = False
) -> Checkpoint:
    """Open a checkpoint; tensors are read when they are needed.

    Args:
        source: a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file; a folder with
            ``config.json`` and weights; ``timm:NAME``, ``torchvision:NAME`` or ``hf-hub:NAME``;
            ``-`` for standard input.
        arch: the architecture, if the file does not say or says it wrong.
        allow_pickle: open archives that hold code, and run it.

    Raises:
        CheckpointError: the source is missing, corrupt, or not a checkpoint.
        ArchitectureError: a name that the libraries do not know.
    """
    checkpoint = _load(os.fspath(source), allow_pickle)
    architecture = prefixed(arch or checkpoint.architecture)
    stated = checkpoint.architecture
    if stated and architecture == split_arguments(stated)[0]:
        architecture = stated  # the arguments that the file states belong to it
    return replace(checkpoint, architecture=architecture)


def _load(source: str, allow_pickle: bool) -> Checkpoint:
    scheme, _, name = source.partition(":")
    if scheme in ("timm", "torchvision", "hf-hub") and name:
        from filtersurgeon.networks import hub

        loaders = {
            "timm": hub.load_timm,
            "torchvision": hub.load_torchvision,
            "hf-hub": hub.load_hf_hub,
        }
        return loaders[scheme](name)
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
