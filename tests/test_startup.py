"""Nothing heavy is imported before a command needs it."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "numpy", "rich", "scipy", "numba", "timm", "torchvision", "matplotlib", "sklearn",
         "safetensors", "yaml", "jinja2", "PIL"}  # fmt: skip


def _imported(words: list[object]) -> set[str]:
    """Run Python and give the top-level names of everything that it imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *map(str, words)],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert len(lines) > 30
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import filtersurgeon"],
        ["-c", "from filtersurgeon import __version__, __all__"],
        ["-m", "filtersurgeon"],
        ["-m", "filtersurgeon", "--help"],
        ["-m", "filtersurgeon", "--version"],
        ["-m", "filtersurgeon", "rank", "--help"],
        ["-m", "filtersurgeon", "replace", "--help"],
    ],
)
def test_help_and_import_are_light(words):
    names = _imported(words)
    assert "filtersurgeon" in names
    assert not names & HEAVY


@pytest.mark.parametrize(
    "words",
    [["inspect"], ["rank", "-m", "l2"], ["replace", "--dry-run"], ["explain"],
     ["initialize", "--dry-run"]],
)  # fmt: skip
def test_tensor_surgery_needs_no_torch(model, words):
    names = _imported(["-m", "filtersurgeon", *words, model])
    assert "numpy" in names
    assert not names & {"torch", "torchvision", "timm", "sklearn", "matplotlib"}
