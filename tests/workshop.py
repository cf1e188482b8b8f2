"""The files that README and docs name, for the commands in them to run.

python tests/workshop.py    # into the current folder
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("n01440764", "n02099601")  # tench, golden retriever
PATIENCE = 1800
"""Seconds to wait for what takes a few where nothing else runs; only what hangs takes longer."""


def prepare(folder: Path) -> None:
    """Write a pretrained network, photographs of two classes, and the project's examples.

    The photographs are drawn, not taken: commands run on them, but no accuracy is shown.
    """
    for place, name in enumerate(CLASSES):
        (folder / "photographs" / name).mkdir(parents=True)
        for number in range(4):
            _photograph(10 * place + number).save(
                folder / "photographs" / name / f"{number}.jpg", quality=90
            )
    _photograph(99).save(folder / "dog.jpg", quality=90)
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples", target_is_directory=True)


def network(folder: Path) -> None:
    """Write ``m.safetensors``: the demo's network, EfficientNet-Lite0 pretrained on ImageNet.

    Raises:
        LookupError: the package that carries its weights is not installed.
    """
    import filtersurgeon  # that of the environment, before this project's folder comes into play

    sys.path.insert(0, str(ROOT))
    from examples.demo_weights import PACKAGE, lite0

    checkpoint = lite0()
    if checkpoint is None:
        raise LookupError(f"needs {PACKAGE}")
    filtersurgeon.save(checkpoint, folder / "m.safetensors", force=True)


def _photograph(seed: int) -> Image.Image:
    """Draw smooth blobs of colour, 320x256."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
    return small.resize((320, 256), Image.Resampling.BICUBIC)


def main() -> None:
    """Fill the current folder."""
    shutil.rmtree("photographs", ignore_errors=True)
    prepare(Path.cwd())
    network(Path.cwd())


if __name__ == "__main__":
    main()
