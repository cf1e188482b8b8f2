"""Names in files that would steer a terminal, leave a folder, or break a page or a picture."""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import filtersurgeon as fs
from filtersurgeon.errors import near_misses, printable

NAMES = (
    "\x1b[2J\x1b]0;owned\x07", "a\nerror: b", "\u202eevil", "../../outside", "/tmp/absolute",
    "[red]markup[/]", "<script>alert(1)</script>", r"$\frac$", "{{ 7 * 7 }}", "%s%n", "", "a..b",
    "x" * 5000, "\x00", "\u0085", "✓ é", "'; rm -rf ~", "*?[!", "a b",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def hostile():
    random = np.random.default_rng(0)
    weights = {}
    for name in NAMES:
        weights[f"{name}.dw.weight"] = random.standard_normal((6, 1, 3, 3)).astype("f4")
        weights[f"{name}.pw.weight"] = np.ones((6, 6, 1, 1), "f4")
    save_file(weights, "m.safetensors", {"format": "pt", **{name: name for name in NAMES}})
    return "m.safetensors"


@pytest.mark.parametrize(
    "words",
    [
        ["inspect"],
        ["rank", "-m", "l2"],
        ["replace", "--dry-run", "--picture", "p.png"],
        ["explain", "--picture", "q.svg"],
    ],
)
def test_hostile_names_neither_reach_the_terminal_nor_break_a_command(hostile, fsurgeon, words):
    for shape in ("--table", "--json"):
        done = fsurgeon(*words, hostile, shape, *(["--force"] if "--picture" in words else []))
        assert done.returncode == 0, done.stderr[-500:]
        text = done.stdout.decode() + done.stderr.decode()
        assert all(x.isprintable() or x in "\n" for x in text)
    made = {"p.png", "q.svg", hostile}
    assert set(os.listdir()) <= made
    assert os.listdir("..") == ["work"]


def test_errors_are_one_short_line_whatever_the_name(fsurgeon):
    name = "\x1b[31m" + "x" * 100_000 + "\nerror: no"
    save_file({f"{name}.weight": np.full((4, 2, 3, 3), np.nan, "f4")}, "m.safetensors")
    done = fsurgeon("rank", "m.safetensors", "-m", "l1")
    assert done.returncode == 2
    line = done.stderr.decode()
    assert line.count("\n") == 1
    assert len(line) < 1100
    assert "\x1b" not in line


def test_what_can_be_printed_stays_and_what_steers_is_spelt_out():
    assert printable("blocks.2 ✓ é 中") == "blocks.2 ✓ é 中"
    assert printable("a\x1b[2J\u202e\n") == r"a\x1b[2J\u202e\n"
    assert printable("\ud800") == r"\ud800"


def test_a_typing_mistake_among_very_many_names_is_answered_at_once():
    names = [f"blocks.{k // 100}.{k % 100}.conv" for k in range(100_000)]
    assert "blocks.3.7.conv" in near_misses("blocks.3.7.conf", names)
    assert near_misses("x" * 1_000_000, names[:3])


def test_a_name_longer_than_a_file_system_allows(fsurgeon, hostile):
    done = fsurgeon("replace", hostile, "-o", "o" * 240 + ".safetensors")
    assert done.returncode == 0, done.stderr
    done = fsurgeon("replace", hostile, "-o", "o" * 300 + ".safetensors")
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    with fs.load(hostile) as checkpoint:
        assert len(checkpoint) == 2 * len(NAMES)
    assert Path("..").resolve().name
