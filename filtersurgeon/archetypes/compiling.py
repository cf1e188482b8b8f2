"""Room for the compiler of kernels and for OpenBLAS, which end the process where they find none."""

from __future__ import annotations

import mmap

ROOM = 256 << 20
"""Bytes that compiling, or the working space of matrix products, takes at most."""


def check_room() -> None:
    """Raise MemoryError where memory is too short, while there is a process to raise it.

    LLVM and OpenBLAS report no error: the one aborts, the other exits.
    """
    try:
        mmap.mmap(-1, ROOM).close()
    except OSError:
        raise MemoryError("no room to compile") from None
