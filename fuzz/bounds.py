"""What one case may cost: a second of the processor, and memory in proportion to its size."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fuzz.mutate import MAX_CASE

SECONDS = 1.0
MEGABYTES = 200
"""Beside twice the input."""


class Hang(BaseException):
    """A case took longer than it may; not an Exception, so that no reader swallows it."""


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise Hang(f"a case took more than {SECONDS:g} s of processor time")


@contextmanager
def time_limit() -> Iterator[None]:
    """Raise Hang in a block that computes for too long.

    Time of the processor counts, so that a busy machine finds nothing that is not there.
    """
    signal.signal(signal.SIGPROF, _raise)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@contextmanager
def memory_limit() -> Iterator[None]:
    """Bound what a block may grow by, as :func:`limit_memory` does, and lift the bound again."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory(before[1])
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def limit_memory(hardest: int | None = None) -> None:
    """Let this process grow by the bound from here on, and no further.

    The limit is one on address space, which is stricter than one on memory in use: what is asked
    for counts, even if it is never touched. Beyond it, MemoryError is raised, which no reader may
    turn into another error.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (MEGABYTES << 20) + 2 * MAX_CASE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit if hardest is None else hardest))


def peak_memory() -> int:
    """Give the largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
