"""The convolutions of the network."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from filtersurgeon.filters import ANY, FilterLayer, find_layers
from filtersurgeon.report.reporting import Section, Subject, Table


def layers(subject: Subject) -> Section | None:
    """List every convolution with its shape, and how it changed."""
    found = find_layers(subject.checkpoint, axes=ANY)
    if not found:
        return None
    before = {x.name: x for x in find_layers(subject.before, axes=ANY)} if subject.before else {}
    columns: tuple[str, ...] = ("layer", "kind", "filters", "shape", "weights")
    if subject.before:
        columns += ("before",)
    rows = tuple(_row(layer, before if subject.before else None) for layer in found)
    kinds = sorted({layer.kind for layer in found})
    counts = ", ".join(f"{sum(x.kind == kind for x in found)} {kind}" for kind in kinds)
    return Section("Layers", (f"{len(found)} convolutions: {counts}.",), (Table(columns, rows),))


def _row(layer: FilterLayer, before: Mapping[str, FilterLayer] | None) -> tuple[object, ...]:
    shape = "x".join(map(str, layer.shape))
    row = (layer.name, layer.kind, layer.n_filters, shape, prod(layer.shape))
    if before is None:
        return row
    old = before.get(layer.name)
    if old is None:
        return (*row, "new")
    return (*row, "same shape" if old.shape == layer.shape else "x".join(map(str, old.shape)))
