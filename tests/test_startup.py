"""Nothing heavy is imported before a command needs it."""

import subprocess
import sys

import numpy as np
import pytest

import filtersurgeon as fs

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


@pytest.mark.slow
def test_evaluation_imports_only_what_runs_networks(tmp_path):
    model, images = tmp_path / "model.safetensors", tmp_path / "images.npz"
    fs.save(fs.untrained("timm:test_resnet", num_classes=2), model)
    np.savez(images, x=np.zeros((2, 32, 32, 3), np.uint8), y=np.arange(2))
    names = _imported(["-m", "filtersurgeon", "eval", model, "--data", images])
    assert "timm" in names
    assert not names & {"torchmetrics", "sklearn", "matplotlib", "transformers", "onnx"}
