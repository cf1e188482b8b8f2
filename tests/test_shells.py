"""Completion in the shells themselves: what TAB shows after ``fsurgeon --install-completion``."""

import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from workshop import PATIENCE

from filtersurgeon.registry import BANKS, RANKING_METHODS

fcntl = pytest.importorskip("fcntl")
termios = pytest.importorskip("termios")

SHELLS = ("bash", "zsh", "fish")
LINES = {
    "fsurgeon in": ("initialize", "inspect"),
    "fsurgeon rank --method ": tuple(RANKING_METHODS.names()),
    "fsurgeon replace --bank ": tuple(BANKS.names()),
    "fsurgeon replace --al": ("--all-spatial", "--allow-pickle"),
    "fsurgeon inspect m": ("m.pt", "m.safetensors"),
}


@pytest.fixture(scope="module", params=SHELLS)
def shell(request, tmp_path_factory):
    """Give a shell's name, and the surroundings in which completion was installed by it."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    home = tmp_path_factory.mktemp(name)
    for file in ("m.pt", "m.safetensors"):
        (home / file).touch()
    script = home / "bin" / "fsurgeon"
    script.parent.mkdir()
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(Path.cwd())!r})\n"
        "from filtersurgeon.cli import main\nmain()\n"
    )
    script.chmod(0o755)
    surroundings = {
        "HOME": str(home), "PATH": f"{script.parent}:{os.environ['PATH']}", "LANG": "C.UTF-8",
        "TERM": "dumb", "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
    }  # fmt: skip
    # Not the last command, so that the shell stays and is recognised.
    done = subprocess.run(
        [name, "-c", "fsurgeon --install-completion; true"],
        env=surroundings, cwd=home, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{name} completion installed" in done.stdout
    return name, surroundings


@pytest.mark.parametrize("line", LINES)
def test_tab(shell, line):
    name, surroundings = shell
    shown = _fish(line, surroundings) if name == "fish" else _press_tab(name, line, surroundings)
    for word in LINES[line]:
        assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", shown), shown


def test_fish_takes_no_help_for_a_word(shell):
    name, surroundings = shell
    if name != "fish":
        pytest.skip("fish shows one word a line")
    shown = _fish("fsurgeon rank --method ", surroundings).splitlines()
    assert [line.partition("\t")[0] for line in shown] == RANKING_METHODS.names()


def _fish(line, surroundings):
    """Ask fish, which tells what it would show without a terminal."""
    done = subprocess.run(
        ["fish", "-c", f"complete -C '{line}'"],
        env=surroundings, cwd=surroundings["HOME"], capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def _press_tab(name, line, surroundings):
    """Type a line and TABs into an interactive shell, and give what the terminal shows."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(surroundings["HOME"])
        os.execvpe(name, [name, "-i"], {**surroundings, "PS1": "ready> "})
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 100, 300, 0, 0))
        _read_until(terminal, lambda shown: bool(shown))
        # Echo of the arithmetic, not of the line, says that start-up files have been read.
        os.write(terminal, b"echo $((40 + 2))begin\n")
        _read_until(terminal, lambda shown: "42begin" in shown)
        os.write(terminal, line.encode() + b"\t\t\t")
        return _read_until(terminal, lambda shown: all(word in shown for word in LINES[line]))
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(terminal)
        os.waitpid(child, 0)


def _read_until(terminal, enough):
    shown, end = "", time.monotonic() + PATIENCE
    while not enough(shown) and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown
