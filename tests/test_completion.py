"""The shell completes verbs, options, and the names of methods and banks."""

import os
import subprocess
import sys

import pytest

from filtersurgeon.registry import BANKS, RANKING_METHODS

# As the installed script does it, whose name the shell knows.
SCRIPT = "import sys; sys.argv[0] = 'fsurgeon'; from filtersurgeon.cli import main; main()"


def _complete(shell: str, line: str) -> str:
    words = line.split(" ")
    variables = {
        "_FSURGEON_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, **variables}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "expected", "absent"),
    [
        ("fsurgeon ", ["inspect", "rank", "replace", "apply", "bank", "doctor"], ["dog8"]),
        ("fsurgeon re", ["replace"], ["rank", "inspect"]),
        ("fsurgeon rank --method ", RANKING_METHODS.names(), ["dog8"]),
        ("fsurgeon rank --method geo", ["geometric-median"], ["distance-sum"]),
        ("fsurgeon replace --bank ", BANKS.names(), ["l1"]),
        ("fsurgeon bank show ", BANKS.names(), ["l1"]),
        ("fsurgeon bank ", ["list", "show"], ["replace"]),
        ("fsurgeon replace --all", ["--all-spatial"], ["--bank"]),
    ],
)
def test_words(shell, line, expected, absent):
    shown = _complete(shell, line)
    for word in expected:
        assert word in shown
    for word in absent:
        assert word not in shown


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_for_the_shell(shell):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "_FSURGEON_COMPLETE": f"source_{shell}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "_FSURGEON_COMPLETE" in done.stdout
    assert f"complete_{shell}" in done.stdout
