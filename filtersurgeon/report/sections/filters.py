"""Some of the first layer's kernels, and those that changed."""

from __future__ import annotations

import numpy as np

from filtersurgeon.filters import FilterLayer, find_layers
from filtersurgeon.plots import tones
from filtersurgeon.plots.sheet import Row
from filtersurgeon.report.reporting import Section, Subject, sheet

_LAYERS, _KERNELS = 4, 16


def filters(subject: Subject) -> Section | None:
    """Draw kernels of a few spatial layers; of a pair, those that changed most, twice."""
    spatial = [layer for layer in find_layers(subject.checkpoint) if layer.is_spatial]
    if not spatial:
        return None
    before = {x.name: x for x in find_layers(subject.before)} if subject.before else {}
    same = [x for x in spatial if x.name in before and before[x.name].shape == x.shape]
    changed = sorted(same, key=lambda x: -_change(x, before[x.name]))
    changed = [x for x in changed if _change(x, before[x.name]) > 0]
    rows = []
    for layer in (changed or spatial)[:_LAYERS]:
        if changed:
            rows.append(_row(f"{layer.name} before", before[layer.name]))
        rows.append(_row(f"{layer.name} after" if changed else layer.name, layer))
    if subject.before and not changed:
        text = "No spatial layer of the same shape differs between the two."
    elif changed:
        text = f"{len(changed)} spatial layers of the same shape differ; those that changed most."
    else:
        text = "The first kernels of the first spatial layers."
    caption = "Kernels: red positive, blue negative, each scaled to its largest magnitude."
    return Section("Kernels", (text,), (), (sheet(rows, caption, tile=48, columns=_KERNELS),))


def _row(title: str, layer: FilterLayer) -> Row:
    kernels = layer.matrix().reshape(-1, *layer.kernel_size)[:_KERNELS]
    return Row(title, [tones.signed(np.asarray(kernel, np.float64)) for kernel in kernels])


def _change(layer: FilterLayer, other: FilterLayer) -> float:
    old = np.asarray(other.matrix(), np.float64)
    length = float(np.linalg.norm(old)) or 1.0
    return float(np.linalg.norm(np.asarray(layer.matrix(), np.float64) - old)) / length
