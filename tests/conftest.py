"""What most tests need: a small network's file, the command as a subprocess, a private cache."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from prefork import Preforked
from safetensors.numpy import save_file
from workshop import PATIENCE

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-m", "filtersurgeon")

# Examples are the same on every machine, however slow it is; fuzz/ looks for new ones.
settings.register_profile(
    "steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")

Snapshot = dict[str, bytes | None]
Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session", autouse=True)
def private_surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache out of the tests, and the tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSURGEON_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("FSURGEON_DEBUG", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> Iterator[None]:
    """Let Ctrl-C reach what the tests start: a shell has commands in the background ignore it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def command() -> tuple[str, ...]:
    """The words that start ``fsurgeon`` of this tree."""
    return COMMAND


@pytest.fixture(scope="session")
def preforked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preforked]:
    """Processes that have imported the libraries, and run commands as forks."""
    started = Preforked(tmp_path_factory.mktemp("sockets"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def fsurgeon(preforked: Preforked) -> Run:
    """Run ``fsurgeon WORDS`` in a process of its own; gives its code and what it wrote."""

    def run(
        *words: object,
        cwd: Path | str | None = None,
        env: dict[str, str] | None = None,
        input: bytes | None = None,
        timeout: float = PATIENCE,
        **options: object,
    ) -> subprocess.CompletedProcess[bytes]:
        told = [str(word) for word in words]
        if preforked.takes(env, options):
            return preforked.run(
                told, cwd=str(cwd or Path.cwd()), surroundings=env, given=input, timeout=timeout
            )
        settings = {"capture_output": True, "timeout": timeout, "cwd": cwd, "env": env, **options}
        if input is not None:
            settings["input"] = input
        else:
            settings.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.run([*COMMAND, *told], check=False, **settings)

    return run


@pytest.fixture
def refuse(fsurgeon: Run, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail, and give its error.

    It must end with code 2, say one line, print nothing, and leave the folder as it was.
    """

    def run(*words: object, folder: Path = tmp_path, **options: object) -> str:
        before = snapshot(folder)
        done = fsurgeon(*words, **options)
        message = done.stderr.decode()
        assert done.returncode == 2, message
        assert message.startswith("error: ")
        assert message.count("\n") == 1, message
        assert message.endswith("\n")
        assert not done.stdout
        assert snapshot(folder) == before
        return message

    return run


def snapshot(folder: Path) -> Snapshot:
    """Give every file below a folder with its content; folders and other things with None."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def small_network(seed: int = 0) -> dict[str, np.ndarray]:
    """Give the tensors of a network with standard, depthwise 3x3 and 5x5, and 1x1 convolutions."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "stem.weight": normal(8, 3, 3, 3),
        "stem_bn.weight": normal(8),
        "stem_bn.running_var": np.abs(normal(8)),
        "stem_bn.num_batches_tracked": np.array(7, np.int64),
        "blocks.2.dw.weight": normal(8, 1, 3, 3),
        "blocks.2.pw.weight": normal(16, 8, 1, 1),
        "blocks.10.dw.weight": normal(16, 1, 5, 5),
        "blocks.10.pw.weight": normal(16, 16, 1, 1),
        "head.weight": normal(10, 16),
        "head.bias": normal(10),
    }


@pytest.fixture
def tensors() -> dict[str, np.ndarray]:
    """Name -> array of the small network."""
    return small_network()


@pytest.fixture
def model(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    """The small network's file."""
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, {"format": "pt"})
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and images, which stands beside the project or nowhere."""
    folder = Path(os.environ.get("FSURGEON_SHARED", ROOT.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip("needs the real weights in ../shared/data")
    return folder
