"""Operators that read values at places that the network computes, and that put them back there."""

from __future__ import annotations

from collections.abc import Sequence

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import operator
from filtersurgeon.graph.zeros import has_labels

_PLACES = "used as places to read from"


def _source_is_silent(step: Step, _made: Sequence[Labels]) -> bool:
    return step.silent(step.args[0]) or not has_labels(step, step.args[0])


@operator(
    "grid_sampler_2d",
    "grid_sampler_3d",
    "_grid_sampler_2d_cpu_fallback",
    "grid_sampler",
    equivariant=True,
    zero_preserving=_source_is_silent,
)
def sample_grid(step: Step) -> Labels:
    """Read every channel at the same places, which the second argument holds."""
    image, grid = step.args[:2]
    labels, places = step.labels(image), step.labels(grid)
    for axis in (*labels[2:], *places[1:]):
        step.pin(axis, _PLACES)
    batch = step.broadcast([(x.shape[:1], step.labels(x)[:1]) for x in (image, grid)], 1)
    return (*batch, labels[1], *(None for _ in labels[2:]))


@operator("max_unpool2d", "max_unpool3d", equivariant=True, zero_preserving=_source_is_silent)
def unpool(step: Step) -> Labels:
    """Put values back where a pooling of the same channels found them."""
    tensor, indices = step.args[:2]
    spatial = 3 if "3d" in step.operator else 2
    found = [step.labels(x) for x in (tensor, indices)]
    for axis in (axis for labels in found for axis in labels[-spatial:]):
        step.pin(axis, "used as positions")
    ahead = tensor.ndim - spatial
    operands = [(tensor.shape[:ahead], labels[:ahead]) for labels in found]
    return (*step.broadcast(operands, ahead), *(None for _ in range(spatial)))


def _table_is_silent(step: Step, _made: Sequence[Labels]) -> bool:
    return step.silent(step.args[0])


@operator("embedding", zero_preserving=_table_is_silent)
def embedding(step: Step) -> Labels:
    """Look rows of a table up; its columns are channels."""
    table, rows = step.args[:2]
    labels = step.labels(table)
    step.pin(labels[0], "looked up by indices")
    return (*step.labels(rows), labels[1])
