"""Generated data: images of oriented dashes, and label noise in training images.

Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic Simplification*,
2025, section 6.1 and Fig. 6.1. Label noise (shuffled labels, noisy copies) measures memorisation.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.images import LabelledImages, Problem
from filtersurgeon.errors import DataError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

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


NOISE = 0.5
"""Deviation of the noise of copies, in deviations of the data's pixels."""


@dataclass(frozen=True)
class LabelNoise:
    """The label noise to add to training images, to measure what a network memorises.

    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 4.2 (the second and the third training strategy).

    Attributes:
        shuffled: give the images each other's labels, once and for all.
        copies: so many further versions of every image, each with white noise and a random label
            that stay the same in every epoch; the original keeps its label.
    """

    shuffled: bool = False
    copies: int = 0

    def options(self) -> dict[str, Any]:
        """List the label noise, for a history."""
        found = {"labels": "shuffled" if self.shuffled else None, "noisy_copies": self.copies}
        return {key: value for key, value in found.items() if value}


def add_label_noise(
    images: LabelledImages, how: LabelNoise, n_classes: int, seed: int
) -> LabelledImages:
    """Add label noise to training images.

    Args:
        images: the originals.
        how: which label noise.
        n_classes: random labels are drawn among these.
        seed: of the shuffling, the noise and the random labels.

    Raises:
        OptionError: a negative number of copies.
    """
    if how.copies < 0:
        raise OptionError(f"noisy copies must be at least 0, not {how.copies}")
    if how.shuffled:
        images = _shuffle_labels(images, seed)
    if not how.copies:
        return images
    own = {field.name: getattr(images, field.name) for field in fields(LabelledImages)}
    return NoisyCopies(**own, copies=how.copies, n_classes=n_classes, seed=seed)


def _shuffle_labels(images: LabelledImages, seed: int) -> LabelledImages:
    """Permute the labels of the images that are used."""
    source: Any = images.source
    labels = list(source.labels)
    mixed = np.random.default_rng([seed, 1]).permutation(len(images))
    for place, other in enumerate(mixed):
        labels[images.indices[place]] = source.labels[images.indices[other]]
    return replace(images, source=replace(source, labels=labels))


@dataclass
class NoisyCopies(LabelledImages):
    """Every image once as it is, and several times with noise and a wrong label.

    Attributes:
        copies: noisy versions of each image.
        n_classes: random labels are drawn among these.
        seed: of noise and labels.
    """

    copies: int = 0
    n_classes: int = 0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.indices) * (self.copies + 1)

    def __getitem__(self, position: int) -> tuple[Tensor | Problem, int]:
        copy, original = divmod(position, len(self.indices))
        image, label = super().__getitem__(original)
        if copy == 0 or isinstance(image, Problem):
            return image, label
        import torch

        chance = np.random.default_rng([self.seed, 2, copy, self.indices[original]])
        label = int(chance.integers(self.n_classes))
        noise = chance.standard_normal(tuple(image.shape), dtype=np.float32)
        return image + NOISE * torch.from_numpy(noise), label
