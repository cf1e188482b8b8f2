"""Generated data: images with classes, with several labels and with masks; and label noise.

Source of the dashes: Linse, *Towards Understanding CNNs Through Visualization and Systematic
Simplification*, 2025, section 6.1 and Fig. 6.1. Label noise (shuffled labels, noisy copies)
measures memorisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.images import LabelledImages, Problem
from filtersurgeon.data.kinds import CLASSES as ONE_CLASS
from filtersurgeon.data.kinds import check_kind
from filtersurgeon.data.sources import ArrayImages, array_images
from filtersurgeon.errors import DataError, OptionError

if TYPE_CHECKING:
    from torch import Tensor

CLASSES = ("horizontal", "vertical")
SIDE, LENGTH, COUNT = 48, 5, 1024
MOST = 8  # dashes of one direction in an image
MARGIN = 2  # so that no 3x3 window that sees a dash leaves the image
LARGEST = 1_000_000
_DIGITS = 9


def is_generated(source: str) -> bool:
    """Tell whether a name of data means generated images: ``dashes`` or ``dashes:COUNT``."""
    return source.partition(":")[0] in GENERATED


def read_generated(source: str, split: str) -> ArrayImages:
    """Make the images that a name stands for; those of the two splits differ.

    Args:
        source: the name of a generated data set, or ``dashes:COUNT`` for another number of images.
        split: ``train`` or ``test``.

    Raises:
        DataError: the count is none.
    """
    name, _, text = source.partition(":")
    text = text or str(COUNT)
    if not text.isdecimal() or len(text) > _DIGITS or not 1 <= int(text) <= LARGEST:
        raise DataError(f"{source}: write {name}:COUNT with a count from 1 to {LARGEST:,}")
    made, names = GENERATED[name]
    found = array_images(*made(int(text), seed=0 if split == "train" else 1), source)
    return replace(found, labels=replace(found.labels, names=names)) if names else found


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


FINDINGS = ("horizontal", "vertical", "disc", "ring")
_UNKNOWN = 0.1
_CELLS = 48
_MOST_CELLS = 6


def findings(count: int = COUNT, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw images that may show each of four things, with one label for each of them.

    A horizontal bar, a vertical bar, a disc and a ring, each in a half of the images, on noise. One
    label in ten is unknown, as in data sets of medical images.

    Args:
        count: number of images.
        seed: of what is drawn.

    Returns:
        ``(count, 48, 48)`` uint8, and the labels ``(count, 4)`` float32: 1, 0, or NaN where
        unknown.
    """
    random = np.random.default_rng([seed, 4])
    labels = random.integers(2, size=(count, len(FINDINGS))).astype(np.float32)
    images = random.integers(0, 60, (count, SIDE, SIDE)).astype(np.uint8)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for image, shown in zip(images, labels, strict=True):
        # A corner for each, so that none hides another.
        for corner in np.flatnonzero(shown):
            up, left = (12 + 24 * int(x) + random.integers(-4, 5) for x in divmod(corner, 2))
            distance = np.hypot(rows - up, columns - left)
            drawn = (
                (abs(rows - up) < 2) & (abs(columns - left) < 7),
                (abs(rows - up) < 7) & (abs(columns - left) < 2),
                distance < 5,
                (distance > 3.5) & (distance < 6),
            )[corner]
            image[drawn] = random.integers(160, 256)
    labels[random.random(labels.shape) < _UNKNOWN] = np.nan
    return images, labels


def cells(count: int = COUNT, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw images of bright ellipses on noise, as of nuclei under a microscope, with their masks.

    There are 1 to 6 in an image; they may overlap, and dark ellipses that do not count lie between.

    Args:
        count: number of images.
        seed: of what is drawn.

    Returns:
        ``(count, 48, 48)`` uint8, and the masks of the same shape: 1 inside of a bright ellipse,
        else 0.
    """
    random = np.random.default_rng([seed, 5])
    images = random.integers(60, 140, (count, _CELLS, _CELLS)).astype(np.uint8)
    masks = np.zeros_like(images)
    for image, mask in zip(images, masks, strict=True):
        for _ in range(random.integers(1, _MOST_CELLS // 2 + 1)):
            inside = _ellipse(random)
            image[inside] = random.integers(20, 100, inside.sum())
        for _ in range(random.integers(1, _MOST_CELLS + 1)):
            inside = _ellipse(random)
            image[inside] = random.integers(100, 220, inside.sum())
            mask[inside] = 1
    return images, masks


def _ellipse(random: np.random.Generator) -> np.ndarray:
    """Draw an ellipse somewhere, ``(48, 48)`` of truth values."""
    rows, columns = np.mgrid[:_CELLS, :_CELLS]
    up, left = random.uniform(4, _CELLS - 4, 2)
    long, short = random.uniform(3.5, 8), random.uniform(3, 6)
    angle = random.uniform(0, np.pi)
    along = (rows - up) * np.cos(angle) + (columns - left) * np.sin(angle)
    across = (columns - left) * np.cos(angle) - (rows - up) * np.sin(angle)
    found: np.ndarray = (along / long) ** 2 + (across / short) ** 2 <= 1
    return found


GENERATED: dict[str, tuple[Callable[..., tuple[np.ndarray, np.ndarray]], tuple[str, ...]]] = {
    "dashes": (dashes, ()),
    "findings": (findings, FINDINGS),
    "cells": (cells, ()),
}
"""What makes each generated data set, and the names of its classes if it has several labels."""


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
        DataError: the images have no single class.
    """
    if how.copies < 0:
        raise OptionError(f"noisy copies must be at least 0, not {how.copies}")
    if how != LabelNoise():
        check_kind(images.kind, [ONE_CLASS], "label noise")
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

    def __getitem__(self, position: int) -> tuple[Tensor | Problem, Any]:
        copy, original = divmod(position, len(self.indices))
        image, label = super().__getitem__(original)
        if copy == 0 or isinstance(image, Problem):
            return image, label
        import torch

        chance = np.random.default_rng([self.seed, 2, copy, self.indices[original]])
        label = int(chance.integers(self.n_classes))
        noise = chance.standard_normal(tuple(image.shape), dtype=np.float32)
        return image + NOISE * torch.from_numpy(noise), label
