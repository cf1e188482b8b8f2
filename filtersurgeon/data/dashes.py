"""Oriented dashes: images with more horizontal ones, and images with more vertical ones.

Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic Simplification*,
2025, section 6.1 and Fig. 6.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.errors import DataError

if TYPE_CHECKING:
    import numpy as np

NAME = "dashes"
CLASSES = ("horizontal", "vertical")
SIDE, LENGTH, COUNT = 48, 5, 1024
MOST = 8  # dashes of one direction in an image
MARGIN = 2  # so that no 3x3 window that sees a dash leaves the image
LARGEST = 1_000_000


def is_dashes(source: str) -> bool:
    """Tell whether a name of data means dashes: ``dashes`` or ``dashes:COUNT``."""
    return source.partition(":")[0] == NAME


def read_dashes(source: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Make the images that a name stands for; those of the two splits differ.

    Args:
        source: ``dashes``, or ``dashes:COUNT`` for another number of images.
        split: ``train`` or ``test``.

    Raises:
        DataError: the count is none.
    """
    text = source.partition(":")[2] or str(COUNT)
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        raise DataError(f"{source}: write dashes:COUNT with a count from 1 to {LARGEST:,}")
    return dashes(int(text), seed=0 if split == "train" else 1)


def dashes(count: int = COUNT, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of dashes, one pixel thick and five long, white on black.

    There are 0 to 8 of each direction, never equally many, and no 3x3 window sees two of them.

    Args:
        count: number of images.
        seed: of what is drawn.

    Returns:
        ``(count, 48, 48)`` uint8, and the classes: 0 where more are horizontal, 1 where more are
        vertical.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    labels = np.empty(count, np.int64)
    for number in range(count):
        horizontal, vertical = random.choice(MOST + 1, size=2, replace=False)
        labels[number] = vertical > horizontal
        _scatter(images[number], [0] * int(horizontal) + [1] * int(vertical), random)
    return images, labels


def _scatter(image: np.ndarray, directions: list[int], random: np.random.Generator) -> None:
    """Draw dashes at free places of an image, in place."""
    import numpy as np

    near = np.zeros_like(image)
    for direction in directions:
        shape = (LENGTH, 1) if direction else (1, LENGTH)
        while True:
            top, left = (
                int(random.integers(MARGIN, SIDE - MARGIN - length + 1)) for length in shape
            )
            bottom, right = top + shape[0], left + shape[1]
            if not near[top:bottom, left:right].any():
                break
        image[top:bottom, left:right] = 255
        near[top - 2 : bottom + 2, left - 2 : right + 2] = 1
