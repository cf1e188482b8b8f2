"""Runs commands in processes of their own, under hard limits, without starting Python anew.

Reads one JSON object a line from standard input (``words``, ``folder``), and answers with one:
the exit code, what was written, and the programs that were started.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

MEMORY = 6_000_000 * 1024
"""Bytes of address space."""
SECONDS = 20
"""Of the processor."""
PATIENCE = 300
"""Seconds until a command that computes nothing is taken to hang."""
_STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")


def main() -> None:
    """Answer requests until there are no more."""
    _prepare()
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), flush=True)


_LATE = (
    "matplotlib.pyplot",
    "filtersurgeon.cli.application",
    "filtersurgeon.learn.evaluate",
    "filtersurgeon.see.activations",
    "filtersurgeon.walk.record",
    "filtersurgeon.walk.walk_networks",
)


def _prepare() -> None:
    """Import what commands import late, so that each does not take seconds to do so."""
    import torch
    from PIL import Image

    from filtersurgeon.checkpoint.vision import import_timm, import_torchvision

    import_timm()
    import_torchvision()
    for name in _LATE:
        import_module(name)
    torch.set_num_threads(1)
    Image.preinit()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out, err, started = (Path(folder, name) for name in ("out", "err", "started"))
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = _run(request, out, err, started)
            finally:
                os._exit(code)
        code = _wait(child)
        texts = [
            path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
            for path in (out, err, started)
        ]
    return dict(zip(("code", "out", "err", "started"), (code, *texts), strict=True))


def _wait(child: int) -> int | str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"


def _run(request: dict[str, Any], out: Path, err: Path, started: Path) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(request["folder"])
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT
        os.dup2(os.open(path, flags, 0o600), number)
    log = os.open(started, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def watch(event: str, arguments: Any) -> None:
        if event in _STARTING:
            os.write(log, f"{event} {arguments}\n".encode())

    sys.addaudithook(watch)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.argv = ["fsurgeon", *request["words"]]
    from filtersurgeon.cli import main as command

    code = 0
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return code


if __name__ == "__main__":
    main()
