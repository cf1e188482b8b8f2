"""The kernels of every spatial layer, and of a pair those that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from filtersurgeon.checkpoint.tensor import COMPUTABLE
from filtersurgeon.filters import CombiningLayer, FilterLayer, find_layers
from filtersurgeon.plots import tones
from filtersurgeon.plots.kernel_sheet import draw_kernels
from filtersurgeon.plots.sheet import Row
from filtersurgeon.report.reporting import Figure, Section, Subject, sheet

_CHANGED, _KERNELS = 4, 16
MOST_WEIGHTS = 1_500_000
"""Weights that are drawn in all, about a byte each; the largest layers are drawn in part."""


def filters(subject: Subject) -> Section | None:
    """Draw the kernels of every spatial layer; of a pair, also those that changed, twice."""
    found = [layer for layer in find_layers(subject.checkpoint) if layer.is_spatial]
    spatial = [layer for layer in found if _is_drawable(layer)]
    if not spatial:
        return None
    others = filter(_is_drawable, find_layers(subject.before)) if subject.before else ()
    before = {x.name: x for x in others}
    figures, text = [], []
    if subject.before:
        changed = _list_changed(spatial, before)
        text.append(
            f"{len(changed)} spatial layers of the same shape differ; those that changed most."
            if changed
            else "No spatial layer of the same shape differs between the two."
        )
        if changed:
            caption = "Kernels: red positive, blue negative, each scaled to its largest magnitude."
            rows = [row for layer in changed[:_CHANGED] for row in _twice(layer, before)]
            figures.append(sheet(rows, caption, tile=48, columns=_KERNELS))
    shapes = [(x.n_filters, x.n_kernels // x.n_filters, *x.kernel_size) for x in spatial]
    drawn = share_weights(shapes, MOST_WEIGHTS)
    figures += [
        _draw(layer, count, before.get(layer.name), is_open=place == 0)
        for place, (layer, count) in enumerate(zip(spatial, drawn, strict=True))
    ]
    text.append(_describe(spatial, drawn))
    if len(found) > len(spatial):
        names = ", ".join(x.name for x in found if not _is_drawable(x))
        text.append(f"Not drawn, because of the type of their weights: {names}.")
    return Section("Kernels", tuple(text), (), tuple(figures))


def _is_drawable(layer: FilterLayer) -> bool:
    return layer.stored.dtype in COMPUTABLE


def _kernels(layer: FilterLayer, count: int | None = None) -> np.ndarray:
    """Give the kernels of the first filters, ``(filters, kernels, height, width)`` float64."""
    values = np.asarray(layer.stored.array()[:count], np.float64)
    if isinstance(layer, CombiningLayer):
        values = values.reshape(len(values), -1, 1) * layer.chosen_filters()
    return values.reshape(len(values), -1, *layer.kernel_size)


def share_weights(shapes: Sequence[tuple[int, ...]], most: int) -> list[int]:
    """Say how many filters of each layer are drawn: all of small layers, as many as fit of others.

    Args:
        shapes: of the layers' weights, filters first.
        most: weights to draw in all; every layer has a filter, whatever its size.
    """
    sizes = [int(np.prod(shape)) for shape in shapes]
    left, each = most, 0
    for place, size in enumerate(sorted(sizes)):
        each = left // (len(sizes) - place)
        if size > each:
            break
        left -= size
    else:
        each = max(sizes, default=0)
    return [
        shape[0] if size <= each else max(1, each // (size // shape[0]))
        for shape, size in zip(shapes, sizes, strict=True)
    ]


def _describe(layers: Sequence[FilterLayer], drawn: Sequence[int]) -> str:
    total = sum(layer.n_kernels for layer in layers)
    shown = sum(x.n_kernels // x.n_filters * n for x, n in zip(layers, drawn, strict=True))
    which = f"All {total:,} kernels" if shown == total else f"{shown:,} of the {total:,} kernels"
    text = f"{which} of the {len(layers)} spatial layers; click a layer to open it."
    if shown < total:
        text += " The first filters of each layer are drawn, to bound the size of the page."
    return text


def _draw(layer: FilterLayer, count: int, old: FilterLayer | None, is_open: bool) -> Figure:
    height, width = layer.kernel_size
    drawn = draw_kernels(_kernels(layer, count))
    title = f"{layer.name}: {_count(layer)} of {height}x{width}"
    if old is not None and old.shape != layer.shape:
        title += f", before {_count(old)}"
    if count < layer.n_filters:
        title += f" (the first {count} filters)"
    caption = (
        f"{layer.name}: red positive, white zero, blue negative; full colour from {drawn.bound:.3g}"
    )
    return Figure(drawn.png, caption, title, drawn.width, is_open)


def _count(layer: FilterLayer) -> str:
    each = layer.n_kernels // layer.n_filters
    kernels = f"{each} kernel{'s' if each > 1 else ''}"
    return f"{layer.n_filters} filter{'s' if layer.n_filters > 1 else ''} with {kernels}"


def _list_changed(
    layers: Sequence[FilterLayer], before: Mapping[str, FilterLayer]
) -> list[FilterLayer]:
    """List layers of the same shape that differ, those that changed most first."""
    same = [x for x in layers if x.name in before and before[x.name].shape == x.shape]
    changes = {x.name: _change(x, before[x.name]) for x in same}
    return sorted((x for x in same if changes[x.name] > 0), key=lambda x: -changes[x.name])


def _twice(layer: FilterLayer, before: Mapping[str, FilterLayer]) -> list[Row]:
    pair = (("before", before[layer.name]), ("after", layer))
    return [_row(f"{layer.name} {word}", one) for word, one in pair]


def _row(title: str, layer: FilterLayer) -> Row:
    kernels = _kernels(layer, _KERNELS).reshape(-1, *layer.kernel_size)[:_KERNELS]
    return Row(title, [tones.signed(kernel) for kernel in kernels])


def _change(layer: FilterLayer, other: FilterLayer) -> float:
    new, old = _kernels(layer), _kernels(other)
    return float(np.linalg.norm(new - old)) / (float(np.linalg.norm(old)) or 1.0)
