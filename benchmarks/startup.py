"""Time to show the help and to inspect a small file, against an interpreter that does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.measure import Row, in_turn


def _command(*words: str) -> Callable[[], object]:
    command = [sys.executable, *words]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def run() -> Iterator[Row]:
    shown = _command("-m", "filtersurgeon", "--help")
    ours, peer = in_turn(shown, _command("-c", "pass"), 7)
    # The allowance of 150 ms is taken off before the ratio.
    yield Row("--help less 150 ms : python -c pass", 1e3 * ours - 150, 1e3 * peer, "ms", 3.0)
    ours, peer = in_turn(shown, _command("-c", "import torch"), 3)
    yield Row("--help : import torch", 1e3 * ours, 1e3 * peer, "ms", 0.5)
