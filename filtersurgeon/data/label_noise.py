"""Label noise in training images, to measure memorisation: shuffled labels, noisy copies."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.images import LabelledImages, Problem
from filtersurgeon.errors import OptionError

if TYPE_CHECKING:
    from torch import Tensor

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
