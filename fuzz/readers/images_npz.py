"""Labelled images in NumPy archives, with any byte broken."""

import io

import numpy as np

from filtersurgeon.data.sources import read_npz
from fuzz.scratch import place


def corpus() -> list[bytes]:
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    found = []
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, x=images, y=np.arange(3), x_train=images / 255.0, y_train=np.arange(3))
        found.append(file.getvalue())
    return found


def read(case: bytes) -> None:
    path = place("images.npz", case)
    for split in ("train", "test"):
        read_npz(path, split).image(0)
