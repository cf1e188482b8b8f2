"""Data sets of images that are made, not read: noise, and tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.data.images import LabelledImages
from filtersurgeon.data.sources import ArrayImages

if TYPE_CHECKING:
    from torch import Tensor


def noise_images(count: int, size: Sequence[int], n_classes: int, seed: int) -> LabelledImages:
    """Draw images of standard normal noise, as a network's preprocessing would leave them.

    Args:
        count: number of images.
        size: channels, height and width.
        n_classes: labels are drawn among these.
        seed: of pixels and labels.
    """
    random = np.random.default_rng([seed, 3])
    channels, height, width = size
    pixels = random.standard_normal((count, height, width, channels), np.float32)
    labels = random.integers(n_classes, size=count).tolist()
    source = ArrayImages(pixels, labels, "noise")
    return LabelledImages(source, range(count), _as_tensor, channels, direct=True)


def prepared_images(images: Tensor, title: str) -> LabelledImages:
    """Make a data set, all labels 0, of images that a network takes as they are.

    Args:
        images: ``(n, channels, height, width)``, normalised as the network expects.
        title: how messages call them.
    """
    pixels = images.detach().cpu().float().numpy().transpose(0, 2, 3, 1)
    source = ArrayImages(pixels, [0] * len(pixels), title)
    return LabelledImages(source, range(len(pixels)), _as_tensor, pixels.shape[-1], direct=True)


def _as_tensor(pixels: np.ndarray) -> Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
