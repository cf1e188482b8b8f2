"""Processes that have imported the libraries already, for tests that run many commands.

Importing torch, timm and torchvision takes seconds, and a command imports them anew each time.
:class:`Preforked` keeps a parent process that has imported them, and nothing of this package; each
command is a fork of it, with its own folder, surroundings and pipes. Two parents take turns, so
that one command that is run twice has two different hash seeds, as it would otherwise.

As a script, this file is the parent: it listens at the socket that is its only argument.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

LIBRARIES = ("safetensors.torch", "typer", "rich.console", "PIL.Image", "torch._dynamo")
# What is read while Python or a library starts is the parent's.
EARLY = ("PYTHON", "LD_", "LC_", "LANG", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "CUDA_", "HF_")
_LOOK = 5  # seconds; so often a parent looks whether the tests are still there


class Preforked:
    """Run ``fsurgeon`` as forks of processes that have imported the libraries.

    Args:
        folder: where the sockets are.
    """

    def __init__(self, folder: Path) -> None:
        self._paths = [str(folder / f"{place}.socket") for place in range(2)]
        self._parents: list[subprocess.Popen[bytes]] = []
        self._surroundings: dict[str, str] = {}
        self._turn = 0

    def takes(self, surroundings: Mapping[str, str] | None, options: Mapping[str, Any]) -> bool:
        """Whether a fork can run it as a new process would."""
        if options or not hasattr(os, "fork"):
            return False
        mine, theirs = dict(os.environ), dict(os.environ if surroundings is None else surroundings)
        base = self._surroundings or mine
        changed = {name for name in {*base, *theirs} if base.get(name) != theirs.get(name)}
        return not any(name.startswith(EARLY) for name in changed)

    def run(
        self,
        words: Sequence[str],
        *,
        cwd: str,
        surroundings: Mapping[str, str] | None,
        given: bytes | None,
        timeout: float,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``fsurgeon WORDS``; give its code, and what it wrote.

        Raises:
            subprocess.TimeoutExpired: it ran longer; it was killed.
        """
        with contextlib.ExitStack() as stack:
            connection = stack.enter_context(self._connect())
            ends = [os.pipe() for _ in range(2)] if given is None else [os.pipe() for _ in range(3)]
            source = os.open(os.devnull, os.O_RDONLY) if given is None else ends[2][0]
            request = {
                "words": list(words),
                "cwd": cwd,
                "surroundings": dict(os.environ if surroundings is None else surroundings),
            }
            body = json.dumps(request).encode()
            descriptors = [source, ends[0][1], ends[1][1]]
            socket.send_fds(connection, [len(body).to_bytes(4, "big")], descriptors)
            connection.sendall(body)
            for descriptor in descriptors:
                os.close(descriptor)
            written: list[bytes] = [b"", b""]
            threads = [
                threading.Thread(target=_read, args=(ends[place][0], written, place))
                for place in range(2)
            ]
            if given is not None:
                threads.append(threading.Thread(target=_write, args=(ends[2][1], given)))
            for thread in threads:
                thread.start()
            connection.settimeout(timeout)
            child = 0
            try:
                child = int.from_bytes(_exactly(connection, 4), "big")
                code = int.from_bytes(_exactly(connection, 4), "big", signed=True)
            except TimeoutError:
                connection.settimeout(None)
                os.kill(child or int.from_bytes(_exactly(connection, 4), "big"), signal.SIGKILL)
                raise subprocess.TimeoutExpired(["fsurgeon", *words], timeout) from None
            finally:
                for thread in threads:
                    thread.join()
        return subprocess.CompletedProcess(["fsurgeon", *words], code, *written)

    def close(self) -> None:
        """End the parents."""
        for parent in self._parents:
            parent.terminate()
            parent.wait()

    def _connect(self) -> socket.socket:
        if not self._parents:
            self._surroundings = dict(os.environ)
            for path in self._paths:
                command = [sys.executable, __file__, path]
                parent = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
                self._parents.append(parent)
        self._turn = 1 - self._turn
        parent, path = self._parents[self._turn], self._paths[self._turn]
        if parent.stdout is not None and not parent.stdout.closed:
            assert parent.stdout.read(1) == b"+"  # It listens.
            parent.stdout.close()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(path)
        return connection


def _read(descriptor: int, written: list[bytes], place: int) -> None:
    with os.fdopen(descriptor, "rb") as file:
        written[place] = file.read()


def _write(descriptor: int, given: bytes) -> None:
    # A command may end before it has read everything.
    with contextlib.suppress(BrokenPipeError), os.fdopen(descriptor, "wb", buffering=0) as file:
        view = memoryview(given)
        while view:
            view = view[file.write(view) :]


def _exactly(connection: socket.socket, count: int) -> bytes:
    read = b""
    while len(read) < count:
        part = connection.recv(count - len(read))
        if not part:
            raise ConnectionError("the parent of the command ended")
        read += part
    return read


def _listen(path: str) -> dict[str, Any]:
    """Fork for each connection; come back in a process that is to run the command."""
    _import_libraries()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(16)
    os.write(1, b"+")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    started_by = os.getppid()
    listener.settimeout(_LOOK)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if os.getppid() != started_by:
                sys.exit()
            continue
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        head, descriptors, _, _ = socket.recv_fds(connection, 4, 3)
        request: dict[str, Any] = json.loads(_exactly(connection, int.from_bytes(head, "big")))
        child = os.fork()
        if child:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.sendall(child.to_bytes(4, "big"))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with contextlib.suppress(OSError):  # who asked may have given up
                connection.sendall(code.to_bytes(4, "big", signed=True))
            os._exit(0)
        connection.close()
        for place, descriptor in enumerate(descriptors):
            os.dup2(descriptor, place)
            os.close(descriptor)
        os.close(null)
        return request


def _import_libraries() -> None:
    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    for name in LIBRARIES:
        import_module(name)
    # The command imports the package itself anew.
    for name in [name for name in sys.modules if name.partition(".")[0] == "filtersurgeon"]:
        del sys.modules[name]
    # What is there is neither looked at by the forks' collector nor copied for it.
    gc.collect()
    gc.freeze()


def _main() -> None:
    request = _listen(sys.argv[1])
    import numpy as np

    # What a command does not seed must differ from run to run.
    random.seed()
    np.random.seed()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["surroundings"])
    tempfile.tempdir = None  # torch._dynamo has asked for it while the parent started
    # As `python -m filtersurgeon` has them.
    sys.path[0] = os.getcwd()
    sys.argv = ["filtersurgeon", *request["words"]]
    code = 0
    try:
        runpy.run_module("filtersurgeon", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    # To take every library apart, as Python does at its end, would take longer than most commands.
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120
    os._exit(code)


if __name__ == "__main__":
    _main()
