"""``load`` and ``save``: checkpoints from any source, and to files, folders and pipes.

What goes beyond bytes is here: networks of the hubs by name, the architecture that is recorded, and
the description that a folder holds for timm.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import IO

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.naming import prefixed, split_arguments
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.sinks import (
    check_output,
    is_folder,
    write_file,
    write_folder,
    write_stream,
)
from filtersurgeon.checkpoint.sources import read_source
from filtersurgeon.networks.architecture import identified, settled
from filtersurgeon.networks.timm_config import folder_config


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

    Examples:
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "m.safetensors")
        ...     save_file({"conv.weight": np.ones((4, 2, 3, 3), np.float32)}, path)
        ...     with fs.load(path) as checkpoint:
        ...         checkpoint["conv.weight"].array().shape
        (4, 2, 3, 3)
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
    return read_source(source, allow_pickle)


def save(
    checkpoint: Checkpoint,
    target: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        checkpoint: what to write; pending changes are computed on the way.
        target: a ``.safetensors`` file, or a folder (one that exists, or a path that ends in
            ``/``), which gets ``config.json``, ``model.safetensors`` and ``recipe.yaml``.
        force: replace files that exist. A folder's other weights, such as shards and their
            index, are removed.
        progress: told how far it is.

    Raises:
        CheckpointError: the target exists, is the input, cannot be written, or does not read
            back as what was written.
        ArchitectureError: a folder states its architecture, which is not known.
        LayerError: a pending change turns out to be impossible.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> with TemporaryDirectory() as folder:
        ...     fs.save(checkpoint, Path(folder, "m.safetensors"))
        ...     with fs.load(Path(folder, "m.safetensors")) as again:
        ...         again.digest == checkpoint.digest
        True
    """
    path = check_output(target, checkpoint.name, force=force)
    if is_folder(target):
        checkpoint.check_unpacked()
        named = identified(checkpoint)
        write_folder(named, Path(target), folder_config(named), progress)
    else:
        write_file(settled(checkpoint), path, progress)


def send(checkpoint: Checkpoint, file: IO[bytes], progress: Progress | None = None) -> None:
    """Write a checkpoint in the safetensors format to an open file or pipe."""
    write_stream(settled(checkpoint), file, progress)
