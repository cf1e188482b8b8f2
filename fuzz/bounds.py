"""What one case may cost: a second of the processor, and memory in proportion to its size.

Limits inside the process end what runs in Python. What hangs elsewhere, in a library or in a system
call, is killed from outside, by the process that started this one: see :class:`Watch`.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from fuzz.mutate import MAX_CASE

WAIT = 120.0
"""Seconds after which a case that computes nothing is taken to wait for ever."""


@dataclass(frozen=True)
class Bounds:
    """What one case may cost.

    Attributes:
        seconds: of the processor.
        megabytes: of memory, beside twice the input.
    """

    seconds: float = 1.0
    megabytes: int = 200


DEFAULT = Bounds()


class Hang(BaseException):
    """A case took longer than it may; not an Exception, so that no reader swallows it."""


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise Hang("a case took more than its time of the processor")


def _raise_waiting(_number: int, _frame: FrameType | None) -> None:
    raise Hang(f"a case waited for more than {WAIT:g} s")


@contextmanager
def time_limit(bounds: Bounds) -> Iterator[None]:
    """Raise Hang in a block that computes, or waits, for too long.

    Time of the processor counts, so that a busy machine finds nothing that is not there.
    """
    signal.signal(signal.SIGPROF, _raise)
    signal.signal(signal.SIGALRM, _raise_waiting)
    signal.setitimer(signal.ITIMER_PROF, bounds.seconds)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def memory_limit(bounds: Bounds) -> Iterator[None]:
    """Bound what a block may grow by, as :func:`limit_memory` does, and lift the bound again."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit_memory(bounds, before[1])
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def limit_memory(bounds: Bounds, hardest: int | None = None) -> None:
    """Let this process grow by the bound from here on, and no further.

    The limit is one on address space, which is stricter than one on memory in use: what is asked
    for counts, even if it is never touched. Beyond it, MemoryError is raised, which no reader may
    turn into another error.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (bounds.megabytes << 20) + 2 * MAX_CASE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit if hardest is None else hardest))


def peak_memory() -> int:
    """Give the largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_HEAD = 16


class Watch:
    """The case that a process is trying, where another process can see it.

    Args:
        path: a file that both know.
        create: make it; the process that tries cases does.
    """

    def __init__(self, path: Path, create: bool = False) -> None:
        size = _HEAD + MAX_CASE
        if create:
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), size)

    def begin(self, number: int, case: bytes) -> None:
        """Show the next case."""
        kept = case[:MAX_CASE]
        self._shared[_HEAD : _HEAD + len(kept)] = kept
        self._shared[8:_HEAD] = len(kept).to_bytes(8, "little")
        self._shared[:8] = number.to_bytes(8, "little")

    @property
    def number(self) -> int:
        """How many cases were begun."""
        return int.from_bytes(self._shared[:8], "little")

    @property
    def case(self) -> bytes:
        """The case that was begun last."""
        size = int.from_bytes(self._shared[8:_HEAD], "little")
        return self._shared[_HEAD : _HEAD + size]


def kill_if_stuck(process: int, watch: Path, bounds: Bounds) -> bytes | None:
    """Wait for a process, and kill it once one case takes far more than it may.

    Args:
        process: its number; it is a child of this one, and is not waited for.
        watch: the file of its :class:`Watch`, which it makes.
        bounds: of its reader.

    Returns:
        The case on which it was killed, or None where it ended.
    """
    seen, begun, since = -1, 0.0, time.monotonic()
    while os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.2)
        if not watch.exists() or watch.stat().st_size < _HEAD:
            continue
        shared = Watch(watch)
        if shared.number != seen:
            seen, begun, since = shared.number, _computed(process), time.monotonic()
        elif seen and (
            _computed(process) - begun > 10 * bounds.seconds or time.monotonic() - since > 10 * WAIT
        ):
            os.kill(process, signal.SIGKILL)
            return shared.case
    return None


def _computed(process: int) -> float:
    """Give the processor seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
