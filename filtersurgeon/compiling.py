"""Room for the compiler of kernels, which ends the whole process where it finds none."""

from __future__ import annotations

import mmap

ROOM = 256 << 20
"""Bytes that compiling, or loading what was compiled before, takes at most."""


def check_room() -> None:
    """Raise MemoryError where memory is too short to compile, while there is a process to raise it.

    LLVM reports no error of its own: it aborts.
    """
    try:
        mmap.mmap(-1, ROOM).close()
    except OSError:
        raise MemoryError("no room to compile") from None
