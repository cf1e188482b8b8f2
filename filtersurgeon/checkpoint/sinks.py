"""Writing checkpoints to files, folders and pipes: the header first, then one tensor at a time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from filtersurgeon.checkpoint.atomic import atomic_file, atomic_files, check_target
from filtersurgeon.checkpoint.checkpoint import NAMES, Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.safetensors import format_header
from filtersurgeon.checkpoint.sources import (
    CONFIG,
    WEIGHTS,
    list_weight_files,
    read_any,
    read_folder,
    weights_of,
)
from filtersurgeon.checkpoint.tensor import BITS
from filtersurgeon.checkpoint.wrapped_names import restored_names
from filtersurgeon.errors import CheckpointError

RECIPE = "recipe.yaml"
BY_DATA = ("tune",)
"""Steps of a history that are no transform of the tensors alone."""


def write_file(
    checkpoint: Checkpoint,
    path: Path,
    progress: Progress | None = None,
    *,
    keep_names: bool = False,
) -> None:
    """Write a safetensors file atomically, and read it back.

    Args:
        checkpoint: what to write; pending changes are computed on the way.
        path: of the file; see :func:`check_output`.
        progress: told how far it is.
        keep_names: as in :func:`write_stream`.

    Raises:
        CheckpointError: it cannot be written, or does not read back as what was written.
        LayerError: a pending change turns out to be impossible.
    """
    with contextlib.ExitStack() as held:
        with atomic_file(path) as file:
            header = write_stream(checkpoint, file, progress, keep_names=keep_names)
            own = _hold(file, held)
        _check_read_back(checkpoint, path, header, own, folder=False)


def write_folder(
    checkpoint: Checkpoint,
    folder: Path,
    config: Mapping[str, Any],
    progress: Progress | None = None,
) -> None:
    """Write ``config.json``, ``model.safetensors`` and ``recipe.yaml``, and read them back.

    Other weights in the folder, such as shards and their index, are removed.

    Args:
        checkpoint: what to write.
        folder: which one; see :func:`check_output`.
        config: what ``config.json`` holds.
        progress: told how far it is.

    Raises:
        CheckpointError, LayerError: as :func:`write_file`.
    """
    texts = (json.dumps(config, indent=2) + "\n", recipe_text(checkpoint))
    obsolete = list_weight_files(folder) if folder.is_dir() else []
    with contextlib.ExitStack() as held:
        with atomic_files(folder, (WEIGHTS, CONFIG, RECIPE), obsolete) as (weights, *others):
            header, own = write_stream(checkpoint, weights, progress), _hold(weights, held)
            for file, text in zip(others, texts, strict=True):
                file.write(text.encode())
        _check_read_back(checkpoint, folder / WEIGHTS, header, own, folder=True)


def _check_read_back(
    checkpoint: Checkpoint, path: Path, header: bytes, own: int, *, folder: bool
) -> None:
    """Raise CheckpointError where the reader finds something else than what was written."""
    problem = _read_back(checkpoint, path, header, folder)
    # Another process may have put a file of its own there since.
    if problem and (not path.exists() or os.path.samestat(path.stat(), os.fstat(own))):
        raise CheckpointError(f"{path} does not read back as it was written: {problem}")


def _hold(file: IO[bytes], held: contextlib.ExitStack) -> int:
    """Keep a file open, so that its number in the file system stays its own."""
    handle = os.dup(file.fileno())
    held.callback(os.close, handle)
    return handle


def _read_back(checkpoint: Checkpoint, path: Path, header: bytes, folder: bool) -> str:
    """Check that the reader finds what was written: the file, its header, every tensor's place.

    Returns:
        What is wrong, or nothing.
    """
    try:
        if folder and weights_of(path.parent) != path:
            return f"it is read from {weights_of(path.parent).name}"
        with (
            read_folder(path.parent) if folder else read_any(path) as found,
            path.open("rb") as raw,
        ):
            described = [{k: (t.dtype, t.shape) for k, t in x.tensors.items()}
                         for x in (found, checkpoint)]  # fmt: skip
            same = raw.read(len(header)) == header and described[0] == described[1]
    except (CheckpointError, OSError) as error:
        return str(error)
    return "" if same else "its header is another one"


def is_folder(target: str | os.PathLike[str]) -> bool:
    """Tell whether an output path means a folder."""
    return os.fspath(target).endswith("/") or Path(target).is_dir()


def check_output(
    target: str | os.PathLike[str], source: str | None = None, *, force: bool = False
) -> Path:
    """Refuse, before any work, an output that cannot or must not be written.

    Args:
        target: the output path.
        source: the input path, which must not be the output.
        force: existing files may be replaced.

    Returns:
        The path of the safetensors file.

    Raises:
        CheckpointError: with the reason and the remedy.
    """
    if not os.fspath(target):
        raise CheckpointError("the output path is empty; give a file or a directory")
    folder = Path(target) if is_folder(target) else None
    path = folder / WEIGHTS if folder else Path(target)
    others = list_weight_files(folder) if folder and folder.is_dir() else []
    if source and _replaces([path, *others], Path(source), whole=folder is not None):
        raise CheckpointError(
            f"{target} is the input, which is never modified; choose another output"
        )
    if folder and not folder.exists():
        if folder.is_symlink():
            raise CheckpointError(f"{folder} is a link that leads nowhere; choose another output")
        check_target(folder, force)
        return path
    if path.suffix != ".safetensors":
        raise CheckpointError(
            f"{path}: checkpoints are written as safetensors; "
            "end the name in .safetensors, or in / for a directory"
        )
    for file in (path, folder / CONFIG, folder / RECIPE, *others) if folder else (path,):
        check_target(file, force)
    return path


def _replaces(paths: Sequence[Path], origin: Path, *, whole: bool) -> bool:
    """Tell whether output files (or a ``whole`` folder) would replace something of the input."""
    place = paths[0].parent
    if origin.is_dir() and whole and place.is_dir() and place.samefile(origin):
        return True
    files = [file for file in (origin.iterdir() if origin.is_dir() else [origin]) if file.exists()]
    return any(path.exists() and file.samefile(path) for path in paths for file in files)


def write_stream(
    checkpoint: Checkpoint,
    file: IO[bytes],
    progress: Progress | None = None,
    *,
    keep_names: bool = False,
) -> bytes:
    """Write the safetensors format to an open file or pipe.

    Tensors go in descending order of element size, so that each begins at a multiple of it, and
    otherwise in the order they have.

    Args:
        checkpoint: what to write.
        file: where to.
        progress: told how far it is.
        keep_names: write the names that tensors had in the input, with the prefix that was removed;
            the metadata then tells the network's own.

    Returns:
        The header as it was written.
    """
    names = sorted(checkpoint, key=lambda name: -BITS[checkpoint[name].dtype])
    stored = restored_names(names, checkpoint.stored_names if keep_names else {})
    table = {stored[name]: (checkpoint[name].dtype, checkpoint[name].shape) for name in names}
    metadata, own = checkpoint.metadata(), {v: k for k, v in stored.items() if k != v}
    if own:
        metadata[NAMES] = json.dumps(own, sort_keys=True)
    header = format_header(table, metadata)
    file.write(header)
    total, done = sum(checkpoint[name].nbytes for name in names), 0
    for name in names:
        for block in checkpoint[name].blocks():
            file.write(block)
            done += memoryview(block).nbytes
            if progress:
                progress(done, total)
    file.flush()
    return header


def recipe_text(checkpoint: Checkpoint) -> str:
    """Write the history as a recipe that ``fsurgeon apply`` takes.

    Comments say what has to be at hand: files that were used, which the history knows by name and
    digest only, and steps that no recipe can repeat.
    """
    import yaml

    steps = [{entry.verb: dict(entry.options)} for entry in checkpoint.history]
    notes = []
    for number, entry in enumerate(checkpoint.history, 1):
        if entry.verb in BY_DATA:
            notes.append(
                f"# Step {number} ({entry.verb}) uses training images: fsurgeon apply stops there; "
                f"run fsurgeon {entry.verb} instead."
            )
        notes += [
            f"# Step {number} ({entry.verb}) used {_on_one_line(name)} ({_on_one_line(digest)}): "
            "write the path of that file in place of its name."
            for name, digest in entry.resources.items()
        ]
    return "".join(f"{note}\n" for note in notes) + yaml.safe_dump(
        {"steps": steps}, sort_keys=False
    )


def _on_one_line(text: object) -> str:
    # A name from a file of unknown origin must not end the comment.
    return json.dumps(str(text))
