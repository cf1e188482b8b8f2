"""Atomic writes: a file is complete, or it is not there."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from filtersurgeon.errors import CheckpointError, OptionError


def check_target(path: Path, force: bool) -> None:
    """Refuse, before any work is done, a path that cannot be written.

    A symbolic link exists even if it leads nowhere; with ``force`` the link itself is replaced.

    Raises:
        CheckpointError: the file exists (and ``force`` is off), its folder is missing or closed,
            or it is not a regular file.
    """
    try:
        _check_target(path, force)
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise CheckpointError(f"cannot write {path}: {error.strerror}") from None


def check_ending(path: str | None, endings: Collection[str], wrong: str, force: bool) -> None:
    """Refuse, before any work is done, an output of another format, or that cannot be written.

    Args:
        path: where to; None for no output.
        endings: suffixes of the format, such as ``.png``.
        wrong: what the error says of another one.
        force: replace a file that exists.

    Raises:
        OptionError: the path ends otherwise.
        CheckpointError: the path cannot be written.
    """
    if path is None:
        return
    if Path(path).suffix not in endings:
        raise OptionError(f"{path}: {wrong}")
    check_target(Path(path), force)


def _check_target(path: Path, force: bool) -> None:
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path} is not a regular file; choose another output")
    if os.path.lexists(path) and not force:
        raise CheckpointError(f"{path} exists; pass `force` to replace it")
    if not path.parent.is_dir():
        if os.path.lexists(path.parent):
            raise CheckpointError(f"{path.parent} is not a directory; choose another output")
        raise CheckpointError(f"{path.parent}: no such directory; create it first")
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
    with _name_file_in_errors(path), contextlib.closing(_Staged(path.parent)) as staged:
        yield staged.file
        staged.file.flush()
        with undisturbed():
            staged.take_place(path)


@contextlib.contextmanager
def atomic_files(
    folder: Path, names: Sequence[str], obsolete: Sequence[Path] = ()
) -> Iterator[list[IO[bytes]]]:
    """Open several files of a folder, which take their names together when the block ends.

    A folder that does not exist appears whole, or not at all. In one that does, the files change
    one right after the other, once all are complete; then the ``obsolete`` ones are removed.

    Raises:
        CheckpointError: writing fails.
    """
    new = not folder.exists()
    with _name_file_in_errors(folder), contextlib.ExitStack() as stack:
        place = folder.parent if new else folder
        staged = [stack.enter_context(contextlib.closing(_Staged(place))) for _ in names]
        yield [one.file for one in staged]
        for one in staged:
            one.file.flush()
        with undisturbed():
            if new:
                _appear(folder, dict(zip(names, staged, strict=True)))
            else:
                for name, one in zip(names, staged, strict=True):
                    one.take_place(folder / name)
                for path in obsolete:
                    path.unlink(missing_ok=True)


def _appear(folder: Path, staged: Mapping[str, _Staged]) -> None:
    hidden = _choose_hidden_name(folder.parent)
    hidden.mkdir()
    try:
        for name, one in staged.items():
            one.take_place(hidden / name)
        hidden.rename(folder)
    except OSError:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


class _Staged:
    """A file being written, of no name or a hidden one.

    Attributes:
        file: where to write.
    """

    def __init__(self, folder: Path) -> None:
        self._path = _choose_hidden_name(folder)
        unnamed = _open_unnamed(folder)
        self._unnamed = unnamed is not None
        self.file: IO[bytes] = unnamed or self._path.open("xb")

    def take_place(self, path: Path) -> None:
        """Become the file of this path, in place of one that may be there."""
        if self._unnamed:
            _name_it(self.file, self._path)
        if path.exists():
            self._path.chmod(path.stat().st_mode & 0o7777)
        os.replace(self._path, path)

    def close(self) -> None:
        """Close the file; if it took no place, nothing of it stays."""
        with undisturbed():
            try:
                with contextlib.suppress(OSError):  # what failed before fails again
                    self.file.close()
            finally:
                self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from None


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended, so that it is not left half done."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is ever interrupted
        return
    waiting: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: waiting.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (None, signal.SIG_IGN)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for arrived in waiting:
            signal.raise_signal(arrived)


def _choose_hidden_name(folder: Path) -> Path:
    # Not the name itself with more around it, which might become too long for the file system.
    return folder / f".fsurgeon-{secrets.token_hex(6)}"


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
