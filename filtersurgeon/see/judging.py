"""Measures of generated images: what networks take them for, saturation, and spectrum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import OptionError, OutputError
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.networks.devices import device_of
from filtersurgeon.networks.outputs import class_scores
from filtersurgeon.see.pictures import as_picture, set_image_size
from filtersurgeon.see.spectral import saturated_shares, spectral_slopes

if TYPE_CHECKING:
    from torch import Tensor

_BATCH = 16


@dataclass(frozen=True)
class Judgement:
    """What was measured of images.

    Attributes:
        recognised: share that the network takes for their class; None where it is unknown.
        judged: the same of another network.
        saturated: share of values that are 0 or 255.
        slope: mean slope of the spectra.
    """

    recognised: float | None
    judged: float | None
    saturated: float
    slope: float


@dataclass(frozen=True)
class Judges:
    """The network that images are made for, and perhaps another one.

    Attributes:
        own: the network.
        other: for the same classes; None without one.
    """

    own: Network
    other: Network | None = None

    @staticmethod
    def open(network: Network, other: Checkpoint | None, device: Any) -> Judges:
        """Open the other network.

        Raises:
            OptionError: it has another number of classes.
        """
        if other is None:
            return Judges(network)
        judge = set_image_size(open_network(other))
        if judge.n_classes != network.n_classes:
            raise OptionError(
                f"judge {judge.name} has {judge.n_classes} classes and {network.name} "
                f"{network.n_classes}; pass a network for the same classes"
            )
        judge.model.to(device).requires_grad_(False)
        return Judges(network, judge)


def judge_images(
    judges: Judges, images: np.ndarray, pixels: np.ndarray, classes: Sequence[int] | None
) -> Judgement:
    """Measure images.

    Args:
        judges: networks.
        images: ``(n, channels, height, width)``, normalised as the first of them expects.
        pixels: ``(n, height, width, 3)`` uint8, the same as they are shown: the other network
            gets these, resized and normalised as it expects.
        classes: of the images; None where they are for no classes.
    """
    import torch

    recognised = judged = None
    if classes is not None:
        recognised = _share(judges.own, torch.from_numpy(images), classes)
    if classes is not None and judges.other is not None:
        from PIL import Image

        other = judges.other
        tensors = [as_picture(Image.fromarray(x), "image", other).tensor for x in pixels]
        with running(other.name):
            judged = _share(other, torch.stack(tensors), classes)
    return Judgement(
        recognised,
        judged,
        float(saturated_shares(pixels).mean()),
        float(spectral_slopes(pixels).mean()),
    )


def _share(network: Network, images: Tensor, classes: Sequence[int]) -> float | None:
    """Give the share of images taken for their class; None where a network gives no classes."""
    import torch

    taken: list[int] = []
    try:
        with torch.no_grad():
            for part in images.split(_BATCH):
                scores = class_scores(network.model(part.to(device_of(network.model))))
                taken += scores.argmax(1).tolist()
    except OutputError:
        return None
    return float(np.mean(np.asarray(taken) == np.asarray(classes)))
