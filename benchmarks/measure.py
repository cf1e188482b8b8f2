"""Ratios of two measurements taken in turn, so that the machine's mood cancels out."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what was compared.
        ours: our figure.
        peer: the other's.
        unit: of both.
        target: the ratio, ours by the other's, that is to be kept.
    """

    name: str
    ours: float
    peer: float
    unit: str
    target: float

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "ratio": self.ratio}


def seconds(call: Callable[[], object]) -> float:
    """Time one call."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def in_turn(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Time two calls alternately; gives the median of each, after one round to warm up."""
    pairs = [(seconds(ours), seconds(peer)) for _ in range(rounds + 1)][1:]
    return median(pair[0] for pair in pairs), median(pair[1] for pair in pairs)


def peak_memory(command: list[str], stdin: str | None = None) -> float:
    """Give the largest resident set of a command, in MB.

    It is measured by a fresh process, for the kernel keeps one maximum for all children.
    """
    script = (
        "import resource, subprocess, sys\n"
        "source = open(sys.argv[1], 'rb') if sys.argv[1] else None\n"
        "feed = subprocess.Popen(['cat'], stdin=source, stdout=-1) if source else None\n"
        "done = subprocess.run(sys.argv[2:], stdin=feed.stdout if feed else None,\n"
        "                      stdout=subprocess.DEVNULL)\n"
        "done.check_returncode()\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script, stdin or "", *command],
        check=True,
        capture_output=True,
        text=True,
    )
    return int(shown.stdout) / 1024
