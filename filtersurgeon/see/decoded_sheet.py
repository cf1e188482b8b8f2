"""Decoded filters as contact sheets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from filtersurgeon.data.images import LabelledImages
from filtersurgeon.plots import tones
from filtersurgeon.plots.sheet import Row, write_sheet
from filtersurgeon.see.decoding import Decoded


def draw_decoded(
    found: Sequence[Decoded],
    path: str | Path,
    *,
    threshold: float = 0.0,
    images: LabelledImages | None = None,
) -> None:
    """Draw every layer's decoded filters; with images, those that each unit answers most.

    Args:
        found: the layers.
        path: a .png file.
        threshold: leave out what is smaller than this share of a filter's largest magnitude.
        images: the images that the fits speak of.

    Raises:
        CheckpointError: the file cannot be written.
    """
    rows = [row for layer in found for row in decoded_rows(layer, threshold, images)]
    tops = [layer.fit.top_network.shape[1] for layer in found if layer.fit and images]
    write_sheet(rows, path, columns=1 + 2 * max(tops) if any(tops) else None)


def decoded_rows(
    layer: Decoded, threshold: float = 0.0, images: LabelledImages | None = None
) -> Iterator[Row]:
    """Yield the rows of one layer, every unit with its number."""
    labels = [str(unit) for unit in layer.units]
    height, width = layer.filters.shape[2:]
    title = f"{layer.layer or 'output'}  {height}x{width}"
    pictures = [tones.opponent(values) for values in layer.filters]
    top = layer.fit.top_network.shape[1] if layer.fit else 0
    if not (top and layer.fit and images):
        yield Row(title, pictures, labels)
    if threshold:
        strong = [tones.opponent(values) for values in layer.thresholded(threshold)]
        yield Row(f"{title}, above {threshold:.0%} of the largest", strong, labels)
    if top and layer.fit and images:
        best = zip(layer.units, pictures, layer.fit.top_network, layer.fit.top_decoded, strict=True)
        for unit, picture, network, decoded in best:
            shown = [picture, *(_picture(images, int(i)) for i in (*network, *decoded))]
            words = ["decoded", *["network"] * top, *["filter"] * top]
            yield Row(f"{layer.layer or 'output'} {unit}", shown, words)


def _picture(images: LabelledImages, position: int) -> np.ndarray:
    """Give an image of a data set in its own size."""
    return np.asarray(images.source.image(images.indices[position]).convert("RGB"))
