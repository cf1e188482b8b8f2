"""Running out of memory, told as what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filtersurgeon.errors import OutOfMemoryError, ran_out_of_memory


@contextmanager
def batch_fits(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a suggestion of half the batch size.

    Raises:
        OutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (RuntimeError, MemoryError) as problem:
        if not ran_out_of_memory(problem):
            raise
        raise OutOfMemoryError(_advice(batch_size)) from problem


def _advice(batch_size: int) -> str:
    """Suggest half the batch, or a smaller picture where there is no half."""
    if batch_size > 1:
        return f"out of memory with batch size {batch_size}; try batch size {batch_size // 2}"
    return "out of memory with batch size 1; use a smaller input size or another device"
