"""Where the bytes of a checkpoint come from: a file, read by position, or a pipe.

Files are read by position rather than mapped: mapped pages would count as memory in use, and a
file cut short by another program would kill the process instead of giving an error.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO

import numpy as np

from filtersurgeon.errors import CheckpointError

CHUNK = 8 << 20
_NAME = re.compile(r"[a-z][a-z0-9_]+")
"""What may be the name of a network of timm, and is not likely to be that of a file."""


class ByteSource(ABC):
    """Bytes that can be read at any position."""

    name: str

    @abstractmethod
    def read(self, offset: int, count: int) -> np.ndarray:
        """Read exactly ``count`` bytes as a uint8 array; raises CheckpointError when short."""

    @abstractmethod
    def peek(self, count: int) -> bytes:
        """Give the first ``count`` bytes, or fewer if there are fewer."""

    @abstractmethod
    def expect_size(self, size: int) -> None:
        """Tell how many bytes there must be, checked now for a file, at its end for a pipe."""

    @abstractmethod
    def finish(self) -> None:
        """Read and check whatever was not needed, so that a writer upstream ends in peace."""

    @abstractmethod
    def file(self) -> IO[bytes]:
        """Everything as a file at its beginning, for a reader of another format."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""


class FileBytes(ByteSource):
    """The bytes of a regular file."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self._file = file
        self.size = os.fstat(file.fileno()).st_size

    def read(self, offset: int, count: int) -> np.ndarray:
        """Read exactly ``count`` bytes."""
        out = np.empty(count, np.uint8)
        view, done = memoryview(out), 0
        while done < count:
            try:
                got = os.preadv(self._file.fileno(), [view[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(f"cannot read {self.name}: {error.strerror}") from None
            if not got:
                raise CheckpointError(
                    f"{self.name} is truncated: it ends at byte {offset + done} "
                    f"of at least {offset + count}"
                )
            done += got
        return out

    def peek(self, count: int) -> bytes:
        """Give the first bytes."""
        return self.read(0, min(count, self.size)).tobytes()

    def expect_size(self, size: int) -> None:
        """Compare the file's size with what its header describes."""
        if self.size < size:
            raise CheckpointError(
                f"{self.name} is truncated: it has {self.size} bytes of {size}; copy it again"
            )
        if self.size > size:
            raise CheckpointError(
                f"{self.name} is corrupt: {self.size - size} bytes follow the last tensor"
            )

    def finish(self) -> None:
        """Do nothing: the whole size of a file was checked when its header was read."""
        return

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def file(self) -> IO[bytes]:
        """Give the open file, at its beginning, for a reader of another format."""
        self._file.seek(0)
        return self._file


class PipeBytes(ByteSource):
    """The bytes of a pipe, kept in an unnamed temporary file as far as they were read.

    So a verb may look at the tensors twice (once to analyse, once to write), in any order, and
    memory stays bounded whatever the size of the stream.
    """

    def __init__(self, pipe: IO[bytes], name: str) -> None:
        self.name = name
        self._pipe = pipe
        self._spool = tempfile.TemporaryFile(prefix="fsurgeon-")  # noqa: SIM115 - held open
        self._kept = FileBytes(self._spool, name)
        self._available = 0
        self._expected: int | None = None
        self._ended = False

    def _fill(self, until: int) -> None:
        while self._available < until and not self._ended:
            chunk = self._pipe.read(min(CHUNK, max(until - self._available, 1 << 16)))
            if not chunk:
                self._ended = True
                break
            try:
                self._spool.write(chunk)
                self._spool.flush()
            except OSError as error:
                raise CheckpointError(
                    f"cannot keep {self.name} in {tempfile.gettempdir()}: {error.strerror}; "
                    "set TMPDIR to a directory with more space"
                ) from None
            self._available += len(chunk)
        self._check_size()

    def _check_size(self) -> None:
        if self._expected is None:
            return
        if self._ended and self._available < self._expected:
            raise CheckpointError(
                f"{self.name} is truncated: it ended after {self._available} bytes "
                f"of {self._expected}; look for an error of the command before the pipe"
            )
        if self._available > self._expected:
            raise CheckpointError(f"{self.name} is corrupt: more bytes follow the last tensor")

    def read(self, offset: int, count: int) -> np.ndarray:
        """Read exactly ``count`` bytes, from what is kept or from the pipe."""
        self._fill(offset + count)
        return self._kept.read(offset, count)

    def peek(self, count: int) -> bytes:
        """Give the first bytes."""
        self._fill(count)
        return self._kept.read(0, min(count, self._available)).tobytes()

    def expect_size(self, size: int) -> None:
        """Remember the size that the header describes; it is checked as bytes arrive."""
        self._expected = size
        self._check_size()

    def finish(self) -> None:
        """Read to the end without keeping what comes."""
        while not self._ended:
            chunk = self._pipe.read(CHUNK)
            self._available += len(chunk)
            self._ended = not chunk
            self._check_size()

    def close(self) -> None:
        """Drop what was kept."""
        self._spool.close()

    def file(self) -> IO[bytes]:
        """Everything that came, as a file at its beginning, for a reader of another format."""
        while not self._ended:
            self._fill(self._available + CHUNK)
        self._spool.seek(0)
        return self._spool


class BoundedFile:
    """A file that is never asked for more bytes than it has, which would be allocated first."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size = file, file.seek(0, os.SEEK_END)
        file.seek(0)
        self.readline, self.tell, self.seek = file.readline, file.tell, file.seek

    def read(self, count: int = -1) -> bytes:
        """Read so many bytes, or what is left."""
        if 0 <= count <= 1:
            return self._file.read(count)
        left = max(self._size - self._file.tell(), 0)
        return self._file.read(left if count < 0 else min(count, left))


def _suggestion(path: Path) -> str:
    """Give a clause for what is no file, but a name of timm, or an address."""
    first, _, rest = str(path).partition("/")
    if first in ("http:", "https:"):
        return "; download it first"
    if first == "timm" and rest:
        return f"; did you mean timm:{rest}?"
    return f"; for a network of timm write timm:{path}" if _NAME.fullmatch(str(path)) else ""


def open_path(path: Path) -> ByteSource:
    """Open a file, or a named pipe, by its path.

    Raises:
        CheckpointError: it is missing, a folder, or not readable.
    """
    try:
        return open_stream(path.open("rb"), str(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file or directory{_suggestion(path)}") from None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:  # half a surrogate pair, or a zero
        raise CheckpointError(f"{str(path)!r} cannot be the name of a file") from None


def open_stream(stream: IO[bytes], name: str = "standard input") -> ByteSource:
    """Wrap a binary stream: a redirected file is read by position, a pipe is kept as it comes."""
    if stat.S_ISREG(os.fstat(stream.fileno()).st_mode) and stream.tell() == 0:
        return FileBytes(stream, name)
    return PipeBytes(stream, name)
