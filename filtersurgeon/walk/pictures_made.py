"""Decoded and maximised pictures, to be shown with the channels that they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.plots import tones
from filtersurgeon.walk.naming import TIMES
from filtersurgeon.walk.scene import Made, Panel

LARGEST = 128
"""Pictures are made no larger than this for the page."""


def make_pictures(
    checkpoint: Checkpoint,
    panels: Sequence[Panel],
    *,
    decode: Sequence[str] = (),
    maximize: Sequence[str] = (),
    units: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    preprocess: dict[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> dict[tuple[int, int], list[Made]]:
    """Decode or maximise the channels of layers, see the verbs of these names.

    Args:
        checkpoint: the network.
        panels: what is shown of it.
        decode: globs on the layers to decode.
        maximize: globs on the layers to make images for.
        units: which of their channels; None: the first 64.
        seed: of the images.
        device: where to compute.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        progress: told what is done, and what is to be done.
        tell: told what was left out.

    Returns:
        By panel number and channel.
    """
    from filtersurgeon.see.ascent import AscentSettings
    from filtersurgeon.see.decoding import DecodeSettings
    from filtersurgeon.see.decoding import decode as decode_units
    from filtersurgeon.see.maximizing import maximize as maximize_units

    found: dict[tuple[int, int], list[Made]] = {}
    numbers = {panel.step.name: number for number, panel in enumerate(panels)}

    def add(layer: str, unit: int, made: Made) -> None:
        if layer in numbers:
            found.setdefault((numbers[layer], unit), []).append(made)

    common: dict[str, Any] = {"preprocess": preprocess, "progress": progress, "tell": tell}
    if decode:
        how = DecodeSettings(list(decode), units, device=device)
        for layer in decode_units(checkpoint, how, **common):
            for unit, filter_ in zip(layer.units, layer.filters, strict=True):
                text = f"{TIMES.join(map(str, filter_.shape[1:]))} pixels of the input"
                add(layer.layer, unit, Made("decoded", _small(tones.opponent(filter_)), text))
    if maximize:
        ascent = AscentSettings(seed=seed)
        images = maximize_units(
            checkpoint, ascent, layers=list(maximize), units=units, device=device, **common
        )
        for row in images:
            for unit, image, after in zip(row.units, row.images, row.after, strict=True):
                text = f"mean activation {after:.3g}"
                add(row.layer, unit, Made("maximised", _small(tones.stretched(image)), text))
    return found


def _small(pixels: np.ndarray) -> np.ndarray:
    from PIL import Image

    if max(pixels.shape[:2]) <= LARGEST:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)
