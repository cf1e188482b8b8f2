"""Commands as forks of a process that has the libraries do what new processes do."""

from __future__ import annotations

import os
import subprocess

import pytest


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("rank", "nothing.safetensors"), 2),
        (("inspect", "-", "--json"), 0),
        (("rank", "m.safetensors", "--annotate"), 0),
        (("inspect", "m.safetensors", "--nonsense"), 2),
    ],
)
def test_the_result_is_that_of_a_new_process(fsurgeon, command, model, words, code):
    given = model.read_bytes() if "-" in words else b""
    forked = fsurgeon(*words, cwd=model.parent, input=given)
    new = subprocess.run([*command, *words], cwd=model.parent, input=given, capture_output=True)
    assert forked.returncode == new.returncode == code
    assert forked.stdout == new.stdout
    assert forked.stderr == new.stderr


def test_surroundings_are_passed_on(fsurgeon, preforked, model):
    narrow = {**os.environ, "COLUMNS": "60"}
    wide = {**os.environ, "COLUMNS": "120"}
    shown = [fsurgeon("inspect", model, "--table", env=each).stdout for each in (narrow, wide)]
    assert shown[0] != shown[1]
    assert preforked.takes(narrow, {})
    assert not preforked.takes({**os.environ, "PYTHONHASHSEED": "0"}, {})
    assert not preforked.takes(None, {"stdin": None})


def test_a_command_that_takes_too_long_is_ended(fsurgeon, model):
    with pytest.raises(subprocess.TimeoutExpired):
        fsurgeon("rank", model, "--method", "archetype", timeout=0.001)
