"""Every verb that writes, brought down at any moment: the old file stays, or the new one is whole.

Signals come at random moments, and just before any of the steps that change names in the folder;
disks are full, folders closed, memory short, and readers of pipes gone. A quarter of an hour of it
runs in the slow tests, a sample in the others.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, snapshot
from safetensors.numpy import save_file
from small_data import MINE, write_network
from workshop import PATIENCE

import filtersurgeon as fs

NET = ("--factory", "mine:depthwise")
DATA = ("--data", "digits.npz", "--subset", "12")
SAVED = "out.safetensors"
LITTER = ".fsurgeon-"

VERBS: dict[str, tuple[str, ...]] = {
    "replace": ("replace", "m.safetensors", "-o", SAVED),
    "replace-folder": ("replace", "m.safetensors", "--arch", "lcnet_035", "-o", "net/"),
    "replace-large": ("replace", "large.safetensors", "-o", SAVED),
    "fabricate": ("fabricate", "m.safetensors", "-o", SAVED),
    "initialize": ("initialize", "m.safetensors", "--method", "ghaar", "-o", SAVED),
    "pack": ("pack", "m.safetensors", "-o", SAVED),
    "unpack": ("unpack", "packed.safetensors", "-o", SAVED),
    "convert": ("convert", "m.safetensors", *NET, "--activation", "leaky-relu", "-o", SAVED),
    "apply": ("apply", "recipe.yaml", "m.safetensors", "-o", SAVED),
    "prune": ("prune", "m.safetensors", *NET, "--sparsity", "0.4", "--per-layer", "-o", SAVED),
    "rank": ("rank", "m.safetensors", "-m", "l1", "-o", "out.json"),
    "rank-annotate": ("rank", "m.safetensors", "-m", "l1", "--annotate", "-o", SAVED),
    "inspect": ("inspect", "m.safetensors", "-o", "out.json"),
    "explain": ("explain", "m.safetensors", "-o", "out.json"),
    "report": ("report", "m.safetensors", *NET, "-o", "out.html"),
    "eval": ("eval", "m.safetensors", *NET, *DATA, "-o", "out.json"),
    "tune": ("tune", "m.safetensors", *NET, *DATA, "--epochs", "1", "-o", SAVED),
    "export": ("export", "m.safetensors", *NET, "--input-size", "1,8,8", "-o", "out.pt2"),
    "bank-sample": ("bank", "sample", "ae.safetensors", "-k", "4", "-o", SAVED),
    "bank-show": ("bank", "show", "dog8", "-o", "out.png"),
    "decode": ("decode", "m.safetensors", *NET, "--picture", "out.png", "-o", "out.json"),
}
RUN_THE_NETWORK = ("convert", "prune", "report", "eval", "tune", "export", "decode")
FAST = ("replace", "replace-folder", "replace-large", "rank", "apply")


class Server:
    """The process that runs commands, and the folder in which they run."""

    def __init__(self, home: Path) -> None:
        self.home, self.log = home / "work", home / "log"
        self.home.mkdir()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
                       "FSURGEON_CACHE": str(home / "cache"), "NUMBA_NUM_THREADS": "1"}  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(ROOT / "tests/crash_server.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def run(self, words: tuple[str, ...], **how: Any) -> dict[str, Any]:
        """Run ``fsurgeon WORDS``; gives its code, its seconds and what it said."""
        wanted = {"words": words, "folder": str(self.home), "stderr": str(self.log), **how}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()


@dataclass(frozen=True)
class Verb:
    """What a verb does when nobody disturbs it.

    Attributes:
        words: the command.
        made: what is in the folder then, of what was not before.
        seconds: how long it takes.
        events: how many steps change names in the folder.
    """

    words: tuple[str, ...]
    made: dict[str, bytes | None]
    seconds: float
    events: int


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("crashes")
    found = Server(home)
    _furnish(found.home)
    words = ("pack", "large.safetensors", "--layers", "a", "-o", "packed.safetensors")
    assert found.run(words)["code"] == 0
    yield found
    found.close()


def _furnish(home: Path) -> None:
    from examples.zoo.train import write_digits
    from filtersurgeon.banks.autoencoder import FilterAutoencoder, save_autoencoder

    write_digits(home / "digits.npz")
    (home / "mine.py").write_text(MINE)
    write_network(home / "m.safetensors", "depthwise")
    (home / "recipe.yaml").write_text("steps: [replace, initialize: {method: ghaar}]\n")
    random = np.random.default_rng(0)
    weights = {"a.weight": random.standard_normal((200, 8, 3, 3)).astype("f4"),
               "dw.weight": random.standard_normal((20_000, 1, 5, 5)).astype("f4"),
               "mix.weight": np.ones((20_000, 4), "f4")}  # fmt: skip
    save_file(weights, home / "large.safetensors")
    pair = tuple((random.standard_normal((b, a)), np.zeros(b)) for a, b in ((25, 4), (4, 1)))
    back = tuple((random.standard_normal((b, a)), np.zeros(b)) for a, b in ((1, 4), (4, 25)))
    save_autoencoder(FilterAutoencoder((5, 5), pair, back, {}), home / "ae.safetensors")


_KNOWN: dict[str, Verb] = {}


def _verb(server: Server, name: str) -> Verb:
    """Run a verb undisturbed, once, and take its outputs away again."""
    if name not in _KNOWN:
        before = snapshot(server.home)
        done = server.run(VERBS[name])
        assert done["code"] == 0, (name, done["stderr"])
        after = snapshot(server.home)
        made = {path: after[path] for path in after.keys() - before.keys()}
        assert made
        assert all(after[path] == content for path, content in before.items())
        _remove(server.home, made)
        again = server.run(VERBS[name])
        after = snapshot(server.home)
        assert all(_is_new(path, after[path], made[path]) for path in made), f"{name} differs"
        _remove(server.home, made)
        _KNOWN[name] = Verb(VERBS[name], made, again["seconds"], again["events"])
    return _KNOWN[name]


def _remove(home: Path, made: dict[str, bytes | None]) -> None:
    for path in sorted(made, reverse=True):
        place = home / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)


def _old(home: Path, verb: Verb) -> dict[str, bytes | None]:
    """Put other files where the outputs will be; gives them."""
    old: dict[str, bytes | None] = {}
    for path, content in sorted(verb.made.items()):
        if content is None:
            (home / path).mkdir()
        else:
            (home / path).write_bytes(b"precious")
        old[path] = None if content is None else b"precious"
    return old


@pytest.fixture
def disturb(server):
    """Run a verb in one disturbed way, and check what it left."""

    def run(name: str, existing: bool, litter: bool = False, **how: Any) -> dict[str, Any]:
        verb = _verb(server, name)
        before = snapshot(server.home)
        old = _old(server.home, verb) if existing else {}
        done = server.run((*verb.words, *(["--force"] if existing else [])), **how)
        after = snapshot(server.home)
        fresh = {path for path in after if path not in before and path not in verb.made}
        try:
            told = (name, existing, how, done)
            assert all(after.get(path) == content for path, content in before.items()), told
            stray = {x for x in fresh if not any(y.startswith(LITTER) for y in x.split("/"))}
            assert not stray, (told, stray)
            assert litter or not fresh, (told, fresh)
            _check_left(verb, old, after, told)
            if done["code"] == 0:
                assert all(_is_new(x, after.get(x), verb.made[x]) for x in verb.made), told
        finally:
            _remove(server.home, dict.fromkeys((*fresh, *verb.made)))
        return done

    return run


def _check_left(verb: Verb, old: dict[str, Any], after: dict[str, Any], told: object) -> None:
    """Every output is the old one or the new one; a new folder is there whole, or not at all."""
    for path, content in verb.made.items():
        left, was = after.get(path, "none"), old.get(path, "none")
        assert left == was or _is_new(path, left, content), (told, path)
    folders = [path for path, content in verb.made.items() if content is None]
    if folders and not old:
        there = [path in after for path in verb.made]
        assert all(there) or not any(there), told


def _is_new(path: str, left: Any, content: bytes | None) -> bool:
    """Tell whether a file is the one that an undisturbed run writes.

    Results that hold seconds differ from run to run; these have to be whole.
    """
    if not isinstance(left, bytes) or content is None:
        return left is content is None
    if path.endswith(".html"):
        return left.startswith(content[:200]) and left.rstrip().endswith(b"</html>")
    if path.endswith(".json") and b"seconds" in content:
        return json.loads(left).keys() == json.loads(content).keys()
    return left == content


def _one_line(done: dict[str, Any], word: str = "") -> None:
    *before, last = done["stderr"].splitlines() or [""]
    assert last.startswith("error: "), done
    assert word in last, done
    assert not any(x.startswith(("error: ", "Traceback")) for x in before), done


def _check_signal(done: dict[str, Any], number: int) -> None:
    if number == signal.SIGKILL:
        assert done["code"] in (0, -signal.SIGKILL), done
    elif done["events"] == 0 and done["code"] == -number:
        pass  # before the command began
    elif done["code"] != 0:
        assert done["code"] == (130 if number == signal.SIGINT else 143), done
        _one_line(done, "interrupted" if number == signal.SIGINT else "terminated")


_LINE = 400  # bytes
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)


def _at_random_moments(disturb, server, names, runs: int, seed: int) -> None:
    random = Random(seed)
    for run in range(runs):
        name, number = names[run % len(names)], random.choice(SIGNALS)
        after = random.random() * 1.1 * _verb(server, name).seconds
        kill = number == signal.SIGKILL
        done = disturb(name, random.random() < 0.5, litter=kill, after=after, signal=number)
        _check_signal(done, number)


def _before_every_step(disturb, server, name: str, number: int, existing: bool) -> None:
    events = _verb(server, name).events
    assert events
    for event in range(1, events + 1):
        kill = number == signal.SIGKILL
        done = disturb(name, existing, litter=kill, event=event, signal=number)
        _check_signal(done, number)


def _where_something_is_short(disturb, server, names, runs: int, seed: int) -> None:
    random = Random(seed)
    for run in range(runs):
        name, existing = names[run // 2 % len(names)], random.random() < 0.5
        size = max(len(x) for x in _verb(server, name).made.values() if x is not None)
        if run % 2:
            # The error's own line goes to a file too, and has to fit.
            least = min(_LINE, size - 1)
            done = disturb(name, existing, file_size=random.randrange(least, size))
            assert done["code"] == 2, done
            _one_line(done, "File too large")
        else:
            done = disturb(name, existing, memory=random.randrange(60 << 20))
            if name in RUN_THE_NETWORK and done["code"] in (-signal.SIGSEGV, -signal.SIGABRT):
                continue  # torch's own libraries end so where they are denied memory
            if "OpenBLAS error" in done["stderr"]:
                assert done["code"] == 1, (name, done)
                continue  # it exits by itself
            assert done["code"] in (0, 2), (name, done)
            if done["code"]:
                _one_line(done, "memory")


def test_signals_at_random_moments(disturb, server):
    _at_random_moments(disturb, server, FAST, runs=6, seed=0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_signals_before_every_step_that_changes_a_name(disturb, server, number):
    _before_every_step(disturb, server, "replace", number, existing=True)


def test_a_folder_of_shards_is_replaced_or_left_at_every_step(server, tmp_path_factory):
    """Whenever it is killed, the folder reads as the old network or as the new one."""
    net, keep = server.home / "sharded", tmp_path_factory.mktemp("keep") / "sharded"
    keep.mkdir()
    with fs.load(server.home / "m.safetensors") as source:
        arrays = {name: np.asarray(source[name].array()) + 1 for name in source}
    names = sorted(arrays)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: arrays[name] for name in held}, keep / shard)
    table = {name: shard for shard, held in shards.items() for name in held}
    (keep / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    structure = [{"edit": "smoothed", "module": "nowhere"}]
    old = {"architecture": "filtersurgeon",
           "model_args": {"base": "timm:lcnet_050", "structure": structure}}  # fmt: skip
    (keep / "config.json").write_text(json.dumps(old))
    words = ("replace", "m.safetensors", "--arch", "lcnet_035", "-o", "sharded/", "--force")
    event, seen = 0, set()
    while True:
        event += 1
        shutil.copytree(keep, net)
        done = server.run(words, event=event, signal=signal.SIGKILL)
        with fs.load(net) as found:
            is_old = np.array_equal(found[names[0]].array(), arrays[names[0]])
            described = found.architecture, list(found.structure)
        assert described == (("timm:lcnet_050", structure) if is_old else ("timm:lcnet_035", []))
        left = {path.name for path in net.iterdir() if not path.name.startswith(LITTER)}
        shutil.rmtree(net)
        seen.add(is_old)
        if done["code"] == 0:
            break
    assert seen == {True, False}
    assert left == {"config.json", "model.safetensors", "recipe.yaml"}


def test_what_is_short_is_told_in_one_line(disturb, server):
    _where_something_is_short(disturb, server, FAST, runs=6, seed=0)


@pytest.mark.slow
def test_every_verb_at_random_moments(disturb, server):
    _at_random_moments(disturb, server, tuple(VERBS), runs=120, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", VERBS)
def test_every_verb_before_every_step(disturb, server, name):
    for number in (signal.SIGKILL, signal.SIGINT):
        for existing in (False, True):
            _before_every_step(disturb, server, name, number, existing)


@pytest.mark.slow
def test_every_verb_where_something_is_short(disturb, server):
    _where_something_is_short(disturb, server, tuple(VERBS), runs=80, seed=2)


PIPED = ("replace-large", "fabricate", "unpack", "rank-annotate")


@pytest.mark.parametrize("name", PIPED)
def test_a_reader_that_goes_away(server, name):
    """Without -o the same checkpoint goes to a pipe, whose reader takes some bytes and leaves."""
    verb, random = _verb(server, name), Random(3)
    size = len(verb.made[SAVED])
    for taken in (0, 1, random.randrange(size // 2)):
        done = server.run(verb.words[:-2], reader=taken)
        if size - taken > 1 << 17:  # more than the pipe itself holds
            assert done["code"] == 2, done
            told = done["stderr"].splitlines()[-1]
            assert told.startswith("note: the command after the pipe ended"), done
        assert done["code"] in (0, 2), done
    assert not [path for path in os.listdir(server.home) if path.startswith(".")]


@pytest.fixture
def disk(server):
    """Mount a small disk inside the folder, of so many kilobytes; needs the rights to."""
    place, mounted = server.home / "disk", []

    def mount(options: str) -> Path:
        place.mkdir(exist_ok=True)
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(words, check=False, capture_output=True).returncode:
            place.rmdir()
            pytest.skip("mounting needs more rights; a limit on the size of files is tried above")
        mounted.append(place)
        return place

    def unmount() -> None:
        if mounted:
            subprocess.run(["umount", str(mounted.pop())], check=True)
            place.rmdir()

    yield mount, unmount
    unmount()


@pytest.mark.parametrize("name", ["replace-large", "rank", "replace-folder"])
def test_a_disk_that_is_full_or_closed(server, disk, name):
    mount, unmount = disk
    verb = _verb(server, name)
    words = [*verb.words[:-1], f"disk/{verb.words[-1]}"]
    for options, word in (("size=4k", "No space left"), ("size=1m,ro", "cannot write")):
        mount(options)
        done = server.run(tuple(words))
        left = os.listdir(server.home / "disk")
        unmount()
        if name == "rank" and done["code"] == 0:
            continue  # small enough for the small disk
        assert done["code"] == 2, done
        _one_line(done, word)
        assert left == []
