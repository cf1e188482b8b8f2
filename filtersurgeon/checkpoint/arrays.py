"""NumPy archives of unknown origin: no code, and no more memory than the file justifies."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

FREE = 200 << 20
GROWTH = 100
"""Arrays may take 200 MB, and a hundred times their compressed size."""
# NumPy writes some 120 bytes; what it does with headers that it cannot read takes time squared.
_LONGEST_HEADER = 1000
_LONGEST_REASON = 150


def array_names(path: Path) -> list[str]:
    """List the arrays of a ``.npz`` file.

    Raises:
        ValueError: it is none.
    """
    with _opened(path) as archive:
        return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def read_arrays(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Read arrays of a ``.npz`` file.

    Args:
        path: the file.
        names: which arrays, of those that :func:`array_names` lists.

    Raises:
        ValueError: the file is damaged, an array holds Python objects, which could run code, or
            would take far more memory than the file has bytes.
    """
    with _opened(path) as archive:
        return [_read(archive, name) for name in names]


class _opened:  # noqa: N801 - used as a function
    """Open an archive, and call everything that goes wrong with it a ValueError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> zipfile.ZipFile:
        try:
            self._archive = zipfile.ZipFile(self._path)
            claimed = sum(entry.compress_size for entry in self._archive.infolist())
            if claimed > self._path.stat().st_size:
                raise ValueError("its parts are larger than the whole")
        except (MemoryError, OSError):
            raise
        except Exception as problem:
            raise ValueError(_reason(problem)) from None
        return self._archive

    def __exit__(self, kind: Any, problem: BaseException | None, trace: Any) -> None:
        self._archive.close()
        # zipfile, zlib and NumPy report a damaged archive by almost any class.
        if isinstance(problem, Exception) and not isinstance(problem, MemoryError):
            raise ValueError(_reason(problem)) from None


def _reason(problem: Exception) -> str:
    """Give an error's first line, which may quote the file."""
    text = (str(problem).strip().splitlines() or [type(problem).__name__])[0]
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _read(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    entry = archive.getinfo(f"{name}.npy")
    if entry.file_size > FREE + GROWTH * entry.compress_size:
        raise ValueError(
            f"{name} would grow from {entry.compress_size} to {entry.file_size} bytes; "
            "save it with numpy.savez, uncompressed, if that is right"
        )
    with archive.open(entry) as member:
        shape, dtype = _header(member, name)
        # What a header claims is allocated before it turns out that the bytes are missing.
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, and reading them could run any code")
        if prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{name} is truncated: an array of shape {shape} takes more bytes")
    with archive.open(entry) as member:
        array: np.ndarray = np.lib.format.read_array(
            member, allow_pickle=False, max_header_size=_LONGEST_HEADER
        )
    return array


def _header(member: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        major, _ = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0
        shape, _, dtype = (read if major == 1 else np.lib.format.read_array_header_2_0)(
            member, max_header_size=_LONGEST_HEADER
        )
    except (ValueError, TypeError) as problem:  # with a text of Python's parser
        raise ValueError(f"the header of {name} cannot be read") from problem
    if any(n < 0 for n in shape):
        raise ValueError(f"an array has the shape {shape}")
    return shape, dtype
