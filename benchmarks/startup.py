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
    yield Row("--help : 3 x python -c pass + 150 ms", 1e3 * ours, 3e3 * peer + 150, "ms", 1.0)
    ours, peer = in_turn(shown, _command("-c", "import torch"), 3)
    yield Row("--help : import torch", 1e3 * ours, 1e3 * peer, "ms", 0.5)
