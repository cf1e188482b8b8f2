"""Time that commands take to start: the help, and the verbs that run a small network.

The help is compared with an interpreter that does nothing, the verbs with the imports of torch and
timm, by the processor time of all threads.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from benchmarks.measure import Row, in_turn

NETWORK = "timm:test_resnet"
IMAGES = 8
# As this package imports them: beside a CPU build of torch, timm alone would fail.
IMPORTS = "import filtersurgeon, torch, timm"


def _command(*words: str) -> Callable[[], object]:
    command = [sys.executable, *words]
    return lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _processor_seconds(words: list[str]) -> float:
    """Give the processor time of a Python process and of what it starts."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    quiet = subprocess.DEVNULL
    subprocess.run([sys.executable, *words], check=True, stdout=quiet, stderr=quiet)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _small_files(folder: Path) -> tuple[str, str]:
    """Save a small network without an architecture in it, and a few labelled images."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    import filtersurgeon as fs

    network, images = folder / "network.safetensors", folder / "images.npz"
    model = fs.build(fs.untrained(NETWORK, num_classes=2))
    save_file({name: x.contiguous() for name, x in model.state_dict().items()}, network)
    pixels = torch.randint(0, 256, (IMAGES, 32, 32, 3), dtype=torch.uint8).numpy()
    np.savez(images, x=pixels, y=np.arange(IMAGES) % 2)
    return str(network), str(images)


def verbs(rounds: int = 5) -> Iterator[Row]:
    """Compare verbs of a small network with the imports of torch and timm."""
    with TemporaryDirectory() as name:
        network, images = _small_files(Path(name))
        pruned = str(Path(name, "pruned.safetensors"))
        at_once = ["-m", "filtersurgeon"]
        cut = ["--per-layer", "--sparsity", "0.5", "--force", "-o", pruned]
        known = ["--arch", f"{NETWORK}(num_classes=2)"]
        commands = {
            "prune": [*at_once, "prune", network, *cut],
            "prune --arch": [*at_once, "prune", network, *cut, *known],
            "eval": [*at_once, "eval", network, "--data", images],
            "compare": [
                *at_once,
                "compare",
                network,
                pruned,
                "--random",
                "4",
                "--latency-runs",
                "0",
            ],
        }
        seconds: dict[str, list[float]] = {name: [] for name in ("", *commands)}
        for _ in range(rounds + 1):  # the first round warms up
            seconds[""].append(_processor_seconds(["-c", IMPORTS]))
            for title, words in commands.items():
                seconds[title].append(_processor_seconds(words))
        for title in commands:
            ours, peer = (1e3 * median(seconds[key][1:]) for key in (title, ""))
            yield Row(f"{title}, small network : import torch, timm", ours, peer, "ms CPU", 1.6)


def run() -> Iterator[Row]:
    shown = _command("-m", "filtersurgeon", "--help")
    ours, peer = in_turn(shown, _command("-c", "pass"), 7)
    yield Row("--help : 3 x python -c pass + 150 ms", 1e3 * ours, 3e3 * peer + 150, "ms", 1.0)
    ours, peer = in_turn(shown, _command("-c", "import torch"), 3)
    yield Row("--help : import torch", 1e3 * ours, 1e3 * peer, "ms", 0.5)
    yield from verbs()
