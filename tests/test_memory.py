"""Memory stays small, however large the file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MEGABYTE = 1 << 20


# A process begins with the size of the one that starts it, so a small one stands between.
LAUNCHER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_maxrss, file=sys.stderr)
os._exit(os.waitstatus_to_exitcode(status))
"""


def _peak(words: list[str], **streams: object) -> int:
    """Run a process and give its largest resident size in bytes."""
    command = [sys.executable, "-c", LAUNCHER, *words]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=True, **streams)
    return int(done.stderr.split()[-1]) * 1024


@pytest.fixture(scope="module")
def with_torch() -> int:
    """The size of an interpreter that has imported torch."""
    return _peak([sys.executable, "-c", "import torch"])


def _write(path: Path, layers: int, kernels: int) -> int:
    """Write a file of equal depthwise layers without ever holding it."""
    layer = np.random.default_rng(0).standard_normal((kernels, 1, 7, 7)).astype("<f4").tobytes()
    table: dict[str, object] = {
        f"layers.{k}.weight": {
            "dtype": "F32",
            "shape": [kernels, 1, 7, 7],
            "data_offsets": [k * len(layer), (k + 1) * len(layer)],
        }
        for k in range(layers)
    }
    # What makes the layers depthwise: something with as many outputs.
    data = layers * len(layer)
    table["mix.weight"] = {
        "dtype": "F32", "shape": [kernels, 1], "data_offsets": [data, data + 4 * kernels]
    }  # fmt: skip
    text = json.dumps(table).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in range(layers):
            file.write(layer)
        file.write(bytes(4 * kernels))
    return path.stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layers", "kernels"), [(40, 80_000), (1, 3_200_000), (140, 80_000)],
    ids=["600 MB", "600 MB in one tensor", "2 GB"],
)  # fmt: skip
def test_replace_streams(tmp_path, command, with_torch, layers, kernels):
    source, target = tmp_path / "m.safetensors", tmp_path / "out.safetensors"
    size = _write(source, layers, kernels)
    assert size > 590 * MEGABYTE
    peak = _peak([*command, "replace", str(source), "-o", str(target), "--quiet"])
    assert peak < with_torch + min(600 * MEGABYTE, size // 2)
    assert target.stat().st_size > 0.99 * size
    target.unlink()
    reader = subprocess.Popen(["cat", str(source)], stdout=subprocess.PIPE)
    with target.open("wb") as output:
        words = [*command, "replace", "--quiet"]
        piped = _peak(words, stdin=reader.stdout, stdout=output)
    reader.stdout.close()
    assert reader.wait() == 0
    assert piped < with_torch + min(600 * MEGABYTE, size // 2)
    assert target.stat().st_size > 0.99 * size


def test_inspecting_reads_the_header_only(tmp_path, command):
    """The data of this file are a hole of 8 GB, which would take long to read or to hold."""
    table = {"a.weight": {"dtype": "F32", "shape": [1 << 23, 256, 1], "data_offsets": [0, 1 << 33]}}
    text = json.dumps(table).encode()
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + (1 << 33))
    peak = _peak([*command, "inspect", str(path)], stdout=subprocess.DEVNULL)
    assert peak < 1024 * MEGABYTE
