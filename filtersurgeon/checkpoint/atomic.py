"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filtersurgeon.errors import CheckpointError


def check_target(path: Path, force: bool) -> None:
    """Refuse, before any work is done, a path that cannot be written.

    Raises:
        CheckpointError: the file exists (and ``force`` is off), its folder is missing or closed,
            or it is not a regular file.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; give another -o")
    if path.exists() and not force:
        raise CheckpointError(f"{path} exists; pass --force to replace it")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path.parent}: no such folder; create it first")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise CheckpointError(f"cannot write into {path.parent}: permission denied")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes its name only when the block ends without an error.

    Where the system can (Linux, most file systems), the file has no name until then, so that
    nothing is left behind even by a process that is killed.

    Raises:
        CheckpointError: writing fails, for instance on a full disk.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        file = _open_unnamed(path.parent)
        unnamed = file is not None
        try:
            with file or staged.open("xb") as out:
                yield out
                out.flush()
                if unnamed:
                    _name_it(out, staged)
                if path.exists():
                    staged.chmod(path.stat().st_mode & 0o7777)
                os.replace(staged, path)
        finally:
            staged.unlink(missing_ok=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None


_OWN_FILES = "/proc/self/fd"


def _open_unnamed(folder: Path) -> IO[bytes] | None:
    """Open a nameless file in a folder, or give None where system or file system cannot."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not os.path.isdir(_OWN_FILES):
        return None
    try:
        return os.fdopen(os.open(folder, flag | os.O_WRONLY, 0o666), "wb")
    except OSError:
        return None


def _name_it(file: IO[bytes], path: Path) -> None:
    # A folder handle makes Python use linkat(2), which follows the link to the nameless file.
    handle = os.open(_OWN_FILES, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.link(str(file.fileno()), path, src_dir_fd=handle, follow_symlinks=True)
    finally:
        os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a small file atomically."""
    with atomic_file(path) as file:
        file.write(content)
