"""Checkpoints far larger than memory allows for, or of very many tensors: what they take.

``python -m benchmarks.large`` writes them into a temporary folder (``TMPDIR``), needs twice their
size there, and prints the seconds and the largest size of each command's process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

MEGABYTE = 1 << 20
WIDTH = 2048  # of the widest convolutions that networks have: 151 MB in float32
COMMAND = [sys.executable, "-m", "filtersurgeon"]

# A process begins with the size of the one that starts it, so a small one stands between.
_LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    file.write(str(usage.ru_maxrss))
os._exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Run:
    """One command on one file.

    Attributes:
        what: the file, in words.
        command: the words after ``fsurgeon``.
        seconds: from start to end.
        peak: largest resident size of the process, in bytes.
        tensor: bytes of the file's largest tensor.
    """

    what: str
    command: str
    seconds: float
    peak: int
    tensor: int

    def row(self) -> str:
        """Write it as a line of a Markdown table."""
        return (
            f"| {self.what} | `{self.command}` | {self.seconds:.0f} s | "
            f"{self.peak / MEGABYTE:,.0f} MB | {self.tensor / MEGABYTE:,.1f} MB |"
        )


HEADINGS = """\
| file | command | time | peak memory | largest tensor |
|---|---|--:|--:|--:|"""


def write_convolutions(path: Path, gigabytes: float) -> int:
    """Write equal 3x3 convolutions without ever holding two; gives the bytes of one."""
    layer = np.random.default_rng(0).standard_normal((WIDTH, WIDTH, 3, 3), np.float32)
    count = max(1, round(gigabytes * 1e9 / layer.nbytes))
    shapes = {f"layers.{k}.conv.weight": layer.shape for k in range(count)}
    _write(path, shapes, layer.tobytes())
    return layer.nbytes


def write_many(path: Path, tensors: int) -> int:
    """Write very many small tensors; gives the bytes of one."""
    layer = np.random.default_rng(0).standard_normal((4, 4, 3, 3)).astype("<f4")
    _write(path, {f"b.{k // 100}.{k % 100}.conv.weight": layer.shape for k in range(tensors)},
           layer.tobytes())  # fmt: skip
    return layer.nbytes


def _write(path: Path, shapes: dict[str, tuple[int, ...]], data: bytes) -> None:
    table = {
        name: {"dtype": "F32", "shape": shape, "data_offsets": [k * len(data), (k + 1) * len(data)]}
        for k, (name, shape) in enumerate(shapes.items())
    }
    text = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in shapes:
            file.write(data)


def measure(what: str, words: list[str], tensor: int, pipe: Path | None = None) -> Run:
    """Run a command, its input perhaps from a pipe; raises CalledProcessError if it fails."""
    with tempfile.NamedTemporaryFile() as note:
        launched = [sys.executable, "-c", _LAUNCHER, note.name, *COMMAND, *words, "--quiet"]
        begun = time.perf_counter()
        reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) if pipe else None
        stdin = reader.stdout if reader else subprocess.DEVNULL
        subprocess.run(launched, check=True, stdin=stdin, stdout=subprocess.DEVNULL)
        seconds, peak = time.perf_counter() - begun, int(Path(note.name).read_text()) * 1024
        if reader and reader.stdout:
            reader.stdout.close()
            reader.wait()
    shown = " ".join("FILE" if os.sep in word else word for word in words)
    return Run(what, f"cat FILE | fsurgeon {shown}" if pipe else shown, seconds, peak, tensor)


def large(folder: Path, gigabytes: float) -> Iterator[Run]:
    """Rank, replace and explain a file of many gigabytes, from its path and from a pipe."""
    source, target = folder / "large.safetensors", folder / "out.safetensors"
    tensor = write_convolutions(source, gigabytes)
    what = f"{source.stat().st_size / 1e9:.1f} GB"
    verbs = [
        ["inspect"],
        ["rank", "-m", "l1"],
        ["replace", "--all-spatial", "-o", str(target), "--force"],
        ["explain"],
    ]
    for verb in verbs:
        yield measure(what, [verb[0], str(source), *verb[1:]], tensor)
        if verb != ["inspect"]:
            yield measure(what, [verb[0], "-", *verb[1:]], tensor, source)
    target.unlink()
    source.unlink()


def many(folder: Path, tensors: int) -> Iterator[Run]:
    """Look at, rank and rewrite a file of very many tensors."""
    source, target = folder / "many.safetensors", folder / "out.safetensors"
    tensor = write_many(source, tensors)
    for verb in (
        ["inspect"],
        ["rank", "-m", "l1"],
        ["replace", "--all-spatial", "-o", str(target), "--force"],
        ["explain"],
    ):
        yield measure(f"{tensors:,} tensors", [verb[0], str(source), *verb[1:]], tensor)


def deep_network(convolutions: int = 2000) -> Any:
    """Make a chain of convolutions with residual connections; a factory for ``--factory``."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.norm1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.act = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return x + self.norm2(self.conv2(self.act(self.norm1(self.conv1(x)))))

    blocks = [Block() for _ in range((convolutions - 1) // 2)]
    stem = nn.Conv2d(3, 8, 3, stride=16, padding=1)
    return nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


def deep(folder: Path, convolutions: int) -> Iterator[Run]:
    """Take a network of very many convolutions through the verbs, also those that follow it."""
    from safetensors.torch import save_file

    source, target = folder / "deep.safetensors", folder / "out.safetensors"
    save_file(deep_network(convolutions).state_dict(), source)
    out = ["-o", str(target), "--force"]
    known = ["--factory", "benchmarks.large:deep_network"]
    for verb in (
        ["inspect"],
        ["rank", "-m", "l1"],
        ["replace", "--all-spatial", *out],
        ["explain"],
        ["prune", "--per-layer", "--sparsity", "0.25", *known, *out],
    ):
        yield measure(f"{convolutions:,} convolutions", [verb[0], str(source), *verb[1:]], 2304)


def main() -> None:
    """Print the table; ``--json`` writes it too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--tensors", type=int, default=50_000)
    parser.add_argument("--convolutions", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fsurgeon-large-"))
    runs = []
    print(HEADINGS, flush=True)
    try:
        for run in chain(
            many(folder, given.tensors) if given.tensors else (),
            deep(folder, given.convolutions) if given.convolutions else (),
            large(folder, given.gigabytes) if given.gigabytes else (),
        ):
            print(run.row(), flush=True)
            runs.append(asdict(run))
    finally:
        shutil.rmtree(folder)
    if given.json:
        given.json.write_text(json.dumps(runs, indent=1) + "\n")


if __name__ == "__main__":
    main()
