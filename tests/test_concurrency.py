"""Several processes at one file, one folder, one cache."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError, CheckpointError
from filtersurgeon.networks import architecture

WRITER = """
import os, sys, filtersurgeon as fs
name, target = sys.argv[1:]
while not os.path.exists("enough"):
    with fs.load(name) as checkpoint:
        fs.save(checkpoint, target, force=True)
print("done", flush=True)
"""


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _two_checkpoints() -> dict[str, str]:
    """Write a large and a small one; gives the name of each digest."""
    random = np.random.default_rng(0)
    save_file({"a.weight": random.standard_normal((300, 40, 3, 3)).astype("f4")}, "one")
    save_file({"b.weight": random.standard_normal((2, 3)).astype("f4")}, "two")
    return {fs.load(name).digest: name for name in ("one", "two")}


def _writer(name: str, target: str) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", WRITER, name, target]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_readers_see_one_whole_file_or_another_while_two_processes_write():
    known, target = _two_checkpoints(), "out.safetensors"
    fs.save(fs.load("one"), target)
    writers = [_writer(name, target) for name in known.values()]
    seen: Counter[str] = Counter()
    while min(seen["one"], seen["two"]) < 5 or seen.total() < 60:
        assert not any(writer.poll() for writer in writers)
        with fs.load(target) as checkpoint:
            seen[known[checkpoint.digest]] += 1
    Path("enough").touch()
    assert [writer.communicate()[0] for writer in writers] == ["done\n", "done\n"]
    assert [writer.returncode for writer in writers] == [0, 0]
    assert sorted(os.listdir()) == ["enough", "one", "out.safetensors", "two"]


FOLDER = """
import os, sys, time
from filtersurgeon import load, save
from filtersurgeon.checkpoint import vision
from filtersurgeon.errors import CheckpointError
vision.import_timm()
codes = []
for number in range(8):
    children, at = [], time.time() + 0.05
    for name in ("one", "two"):
        child = os.fork()
        if not child:
            checkpoint = load(name, arch="timm:test_resnet")
            time.sleep(max(0, at - time.time()))
            try:
                save(checkpoint, f"net{number}/")
            except CheckpointError:
                os._exit(2)
            os._exit(0)
        children.append(child)
    codes.append(sorted(os.waitstatus_to_exitcode(os.waitpid(x, 0)[1]) for x in children))
sys.exit(any(code not in ([0, 0], [0, 2]) for code in codes))
"""


def test_two_processes_that_make_one_folder():
    known = _two_checkpoints()
    done = subprocess.run(
        [sys.executable, "-c", FOLDER], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for number in range(8):
        found = sorted(os.listdir(f"net{number}"))
        assert found == ["config.json", "model.safetensors", "recipe.yaml"]
        with fs.load(f"net{number}") as checkpoint:
            assert checkpoint.digest in known
    assert [name for name in os.listdir() if name.startswith(".")] == []


CACHE = """
import os, sys
from filtersurgeon.networks import architecture
from filtersurgeon import load
architecture._find_fitting = lambda shapes: ["timm:lcnet_035"] * 1  # what is shared is the cache
children = []
for _ in range(8):
    child = os.fork()
    if not child:
        answers = {tuple(*architecture.candidates(load("one"))) for _ in range(200)}
        os._exit(0 if answers == {("timm:lcnet_035",)} else 1)
    children.append(child)
codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
sys.exit(0 if codes == {0} else 1)
"""


def test_one_cache_of_architectures_shared_by_many_processes(tmp_path, monkeypatch):
    _two_checkpoints()
    monkeypatch.setenv("FSURGEON_CACHE", str(tmp_path / "cache"))
    done = subprocess.run(
        [sys.executable, "-c", CACHE], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (remembered,) = (tmp_path / "cache/architectures").iterdir()
    assert json.loads(remembered.read_text()) == [["timm:lcnet_035"]]


@pytest.mark.parametrize(
    "text", ["", "{", '"timm:x"', '{"timm:x": 1}', "[1]", '["factory:os:system"]', "[" * 9999, "\0"]
)
def test_a_cache_that_says_something_else_is_not_believed(tmp_path, monkeypatch, text):
    _two_checkpoints()
    monkeypatch.setenv("FSURGEON_CACHE", str(tmp_path / "cache"))
    with fs.load("one") as checkpoint, pytest.raises(ArchitectureError, match="fits no network"):
        architecture.resolve(checkpoint)
    (remembered,) = (tmp_path / "cache/architectures").iterdir()
    remembered.write_text(text)
    with fs.load("one") as checkpoint, pytest.raises(ArchitectureError, match="fits no network"):
        architecture.resolve(checkpoint)
    assert json.loads(remembered.read_text()) == []


def test_a_file_that_is_written_over_in_place_is_noticed_or_read(tmp_path):
    """Another program may not write as carefully; what is read has at least the right size."""
    _two_checkpoints()
    with fs.load("one") as checkpoint:
        Path("one").write_bytes(Path("two").read_bytes())
        with pytest.raises(CheckpointError, match="truncated"):
            checkpoint["a.weight"].raw()
    assert tmp_path.exists()
