"""What reading layers see and make, as rows of matrices: a sample of positions of every image."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from filtersurgeon.graph.program import Tensors
from filtersurgeon.pruning.compensation.sampling import patches
from filtersurgeon.pruning.compensation.watch import Call
from filtersurgeon.pruning.reconstruction.layers import ReadingLayer, Skip

POSITIONS = 64
"""Per image at most; neighbouring positions say nearly the same."""

_TARGET_BYTES = 800 << 20


class Targets:
    """What layers make in the original network where it is sampled, for all cuts that follow.

    Beyond some memory, nothing is kept.

    Attributes:
        shapes: layer -> the shape of what it makes.
    """

    def __init__(self) -> None:
        self.shapes: dict[str, torch.Size] = {}
        self._rows: dict[Hashable, Tensor] = {}
        self._bytes = 0

    def get(self, key: Hashable) -> Tensor | None:
        """Give rows that were kept."""
        return self._rows.get(key)

    def put(self, key: Hashable, rows: Tensor) -> None:
        """Keep rows if there is room."""
        size = rows.numel() * rows.element_size()
        if key not in self._rows and self._bytes + size <= _TARGET_BYTES:
            self._rows[key] = rows
            self._bytes += size


@dataclass(frozen=True)
class Part:
    """A reading layer, or one group of a grouped convolution.

    Its rows, and the columns of its map, have all inputs of one tap after those of another: so are
    patches copied fastest.

    Attributes:
        reader: the layer.
        inputs: which inputs its filters see.
        outputs: which filters these are.
    """

    reader: ReadingLayer
    inputs: slice
    outputs: slice

    @property
    def taps(self) -> int:
        """Positions that a filter sees of each input."""
        return prod(self.reader.layer.kernel)

    @property
    def depth(self) -> int:
        """Inputs that a filter sees."""
        return self.inputs.stop - self.inputs.start

    def columns(self, groups: np.ndarray) -> Tensor:
        """Give the columns of a row that belong to groups of channels, ``(groups, k)``.

        All groups must have as many; none may have any.
        """
        members = self.reader.members[self.inputs]
        places = [np.flatnonzero(members == group) for group in groups]
        found = np.array(places, np.int64).reshape(len(places), -1)
        taps = self.depth * np.arange(self.taps)
        return torch.from_numpy((found[:, :, None] + taps).reshape(len(found), -1))

    def kept(self, alive: np.ndarray) -> Tensor:
        """Give the columns that are left, in order.

        Args:
            alive: group -> whether it is kept.
        """
        members = self.reader.members[self.inputs]
        inputs = np.flatnonzero((members < 0) | alive[members])
        taps = self.depth * np.arange(self.taps)
        return torch.from_numpy((taps[:, None] + inputs).ravel())

    def map_of(self, weight: Tensor) -> Tensor:
        """Give the part's map ``(outputs, taps * inputs)`` from the layer's weight."""
        filters = self.reader.layer.filters_first(weight)[self.outputs]
        return filters.reshape(*filters.shape[:2], -1).transpose(1, 2).flatten(1)

    def put(self, weight: Tensor, found: Tensor, columns: Tensor) -> None:
        """Write a map of some columns into the layer's weight, in place, zeros elsewhere.

        Args:
            weight: contiguous.
            found: ``(outputs, columns)``.
            columns: numbers of the columns, ``(columns,)``.
        """
        layer = self.reader.layer
        filters = layer.filters_first(weight)
        shape = filters[self.outputs].shape
        rows = weight.new_zeros(len(found), self.taps * self.depth)
        rows.index_copy_(1, columns.to(rows.device), found.to(rows.dtype))
        rows = rows.reshape(len(found), self.taps, self.depth).transpose(1, 2)
        filters[self.outputs] = rows.reshape(shape)
        if layer.transposed:
            weight.copy_(layer.as_stored(filters))


def parts_of(reader: ReadingLayer, weight: Tensor) -> list[Part]:
    """Split a layer into its groups."""
    layer = reader.layer
    filters = layer.filters_first(weight)
    groups, depth = layer.groups, filters.shape[1]
    width = len(filters) // groups
    return [
        Part(reader, slice(n * depth, (n + 1) * depth), slice(n * width, (n + 1) * width))
        for n in range(groups)
    ]


def sample(
    reader: ReadingLayer, values: Tensor, made: Tensor | None, count: int, seed: int
) -> tuple[Tensor, Tensor | None]:
    """Take rows that a layer sees, and what belongs to them.

    Args:
        reader: the layer.
        values: what it reads, of the first ``count`` images and perhaps more; if it reads a mean,
            what that is the mean of.
        made: what it makes of them, or something of that shape; None where it reads a mean.
        count: images.
        seed: of the positions, the same for all images.

    Returns:
        Shapes ``(rows, taps * inputs)`` and ``(rows, outputs)``.
    """
    draw = torch.Generator().manual_seed(seed)
    if reader.pooled is not None:
        seen = values[:count]
        rows, _ = patches(Call(seen, seen, _UNIT), (1, 1), POSITIONS, draw)
        return rows.flatten(1), None
    assert made is not None
    if reader.geometry is None:
        return _linear_rows(reader, values, made, count, draw)
    layer, seen = reader.layer, values[:count]
    stride, padding, dilation = reader.geometry
    if layer.transposed:
        seen = _spread(seen, made, layer.kernel, reader.geometry)
        ones, zeros = (1,) * len(stride), (0,) * len(stride)
        rows, found = patches(
            Call(seen, made[:count], (ones, zeros, dilation)), layer.kernel, POSITIONS, draw
        )
        return rows.flip(1).flatten(1), found
    rows, found = patches(
        Call(seen, made[:count], (stride, padding, dilation)), layer.kernel, POSITIONS, draw
    )
    return rows.flatten(1), found


_UNIT = ((1, 1), (0, 0), (1, 1))


def _linear_rows(
    reader: ReadingLayer, values: Tensor, made: Tensor, count: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Take rows of a product; the images' axis comes first in what is flattened."""
    # What is no whole number of rows an image, as windows of some, is drawn from all rows.
    images = reader.batch if len(values) % reader.batch == 0 else 1
    if images == 1:
        count = 1
    places = len(values) // images
    rows, found = (x.reshape(images, places, -1)[:count] for x in (values, made))
    if places > POSITIONS:
        chosen = torch.randperm(places, generator=draw)[:POSITIONS].to(values.device)
        rows, found = rows[:, chosen], found[:, chosen]
    return rows.flatten(0, 1), found.flatten(0, 1)


def _spread(
    seen: Tensor,
    made: Tensor,
    kernel: tuple[int, ...],
    geometry: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]],
) -> Tensor:
    """Put zeros between the inputs of a transposed convolution, so that it is an ordinary one."""
    stride, padding, dilation = geometry
    space = [(size - 1) * s + 1 for size, s in zip(seen.shape[2:], stride, strict=True)]
    wide = seen.new_zeros(*seen.shape[:2], *space)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in stride))] = seen
    sides: list[int] = []
    spans = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    for size, out, span, p in zip(space, made.shape[2:], spans, padding, strict=True):
        before = span - p
        sides = [before, out + span - size - before, *sides]
    return functional.pad(wide, sides)


def sample_made(reader: ReadingLayer, made: Tensor, count: int, seed: int) -> Tensor:
    """Take only what belongs to the rows of :func:`sample`, ``(rows, outputs)``.

    Args:
        reader: the layer; it reads no mean.
        made: what it makes, or something of that shape.
        count: images.
        seed: of the positions.
    """
    draw = torch.Generator().manual_seed(seed)
    if reader.geometry is None:
        return _linear_rows(reader, made, made, count, draw)[0]
    axes = made.ndim - 2
    whole = Call(made[:count], made[:count], ((1,) * axes, (0,) * axes, (1,) * axes))
    return patches(whole, (1,) * axes, POSITIONS, draw)[0].flatten(1)


def unscaled(skip: Skip, tensors: Tensors) -> Tensor | float:
    """Give the factor that brings what is added behind a layer into the layer's own units.

    Args:
        skip: what is added.
        tensors: of the whole network.

    Returns:
        Shape ``(outputs,)``; zero where the scale in between is nearly nothing.
    """
    found: Tensor | float = 1.0
    for weight, variance, epsilon in skip.scales:
        assert variance is not None
        factor = (tensors[variance] + epsilon).rsqrt()
        if weight is not None:
            factor = factor * tensors[weight]
        # A factor of nearly nothing would ask for the impossible.
        safe = factor.abs() > 1e-3 * factor.abs().max()
        found = found * torch.where(safe, 1 / torch.where(safe, factor, factor.new_ones(())), 0.0)
    return found
