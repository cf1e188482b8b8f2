"""Run the command again and again, each time in a new process that is brought down in one way.

A process of its own, which imports everything once and forks: so a run takes as long as its work,
and can be stopped at any moment of it. It reads one JSON object per line, and answers with one.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
NAMES = ("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.chmod")


def main() -> None:
    """Serve until standard input ends."""
    _import_everything()
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)


def _import_everything() -> None:
    import importlib
    import pkgutil

    import torch

    import filtersurgeon
    from filtersurgeon.checkpoint.vision import import_timm

    torch.set_num_threads(1)
    import_timm()
    for module in pkgutil.walk_packages(filtersurgeon.__path__, "filtersurgeon."):
        if not module.name.endswith(("__main__", "timm_hook")):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    for name in ("matplotlib.pyplot", "jinja2", "yaml", "scipy.special", "rich.table", "numba"):
        importlib.import_module(name)


def _serve(wanted: dict[str, Any]) -> dict[str, Any]:
    folder = Path(wanted["folder"])
    Path(wanted["stderr"] + ".events").unlink(missing_ok=True)
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        _become_the_command(wanted, folder)
    if wanted.get("after") is not None:
        _kill_later(child, wanted["after"], wanted["signal"])
    _, status = os.waitpid(child, 0)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.perf_counter() - begun,
        "stderr": Path(wanted["stderr"]).read_text("utf-8", "replace"),
        "events": _count(Path(wanted["stderr"] + ".events")),
    }


def _kill_later(child: int, seconds: float, number: int) -> None:
    """Send a signal at a moment of the run; one that is over is left alone."""

    def send() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()


def _count(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


def _become_the_command(wanted: dict[str, Any], folder: Path) -> None:
    """Never returns."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command says what it does with it
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    streams = [
        os.open(os.devnull, os.O_RDONLY),
        _standard_output(wanted),
        os.open(wanted["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
    ]
    for number, handle in enumerate(streams):
        os.dup2(handle, number)
    for name, mode, number in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        setattr(sys, name, os.fdopen(number, mode, 1, closefd=False))
    sys.argv = ["fsurgeon", *wanted["words"]]
    _limit(wanted)
    _watch(folder, wanted)
    from filtersurgeon.cli import main as command

    code = 70
    try:
        command()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _standard_output(wanted: dict[str, Any]) -> int:
    """Give a file, or a pipe whose reader goes away after so many bytes."""
    if wanted.get("reader") is None:
        return os.open(wanted["stderr"] + ".out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.close(writing)
        left = wanted["reader"]
        while left > 0 and (chunk := os.read(reading, min(left, 4096))):
            left -= len(chunk)
        os._exit(0)
    os.close(reading)
    return writing


def _limit(wanted: dict[str, Any]) -> None:
    if wanted.get("file_size") is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (wanted["file_size"],) * 2)
    if wanted.get("memory") is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + wanted["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _watch(folder: Path, wanted: dict[str, Any]) -> None:
    """Count what happens to names and files of the folder, and stop at the given one of them."""
    seen, home = 0, os.fspath(folder)
    record = os.open(wanted["stderr"] + ".events", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in NAMES and not (
            event == "open" and isinstance(given[2], int) and given[2] & WRITING
        ):
            return
        path = given[0]
        if not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.abspath(os.fsdecode(path))
        if not place.startswith((home, "/proc/self/fd")):
            return
        seen += 1
        os.pwrite(record, str(seen).encode(), 0)
        if seen == wanted.get("event"):
            os.kill(os.getpid(), wanted["signal"])

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
