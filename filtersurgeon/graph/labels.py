"""Labels of channel elements: one vector of labels per axis of a tensor, or none for the axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""One label for every index of an axis; ``CONSTANT`` or ``UNIFORM`` where there is no channel."""

Axis = Ids | None
"""None: nothing can be removed along the axis, and nothing needs to be."""

Labels = tuple[Axis, ...]
"""One entry per axis of a tensor."""

CONSTANT = -1
"""A value that does not go away with a channel: what is joined to it is pinned."""

UNIFORM = -2
"""One value repeated, such as padding: there may be more or fewer of it."""


def blocks(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Pair the axes that a reshape maps onto each other, in the smallest possible groups.

    Axes of size one are left out, as they carry no labels.

    Args:
        old: a shape.
        new: another shape with as many elements.

    Yields:
        Axes of ``old`` and the axes of ``new`` that hold the same elements.
    """
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    i = j = 0
    while i < len(left) and j < len(right):
        start_i, start_j = i, j
        here, there = old[left[i]], new[right[j]]
        i, j = i + 1, j + 1
        while here != there:
            if here < there:
                here *= old[left[i]]
                i += 1
            else:
                there *= new[right[j]]
                j += 1
        yield left[start_i:i], right[start_j:j]


def spread(axis: Ids, position: int, shape: Sequence[int]) -> Ids:
    """Give the labels of the elements of a flattened tensor whose axis ``position`` has labels.

    Args:
        axis: the labels along that axis.
        position: which axis.
        shape: of the tensor.

    Returns:
        A vector with one label per element, in row-major order.
    """
    before, after = prod(shape[:position]), prod(shape[position + 1 :])
    return np.tile(np.repeat(axis, after), before)


def gather(flat: Ids, shape: Sequence[int], axis: int) -> Ids:
    """Give the labels of a flattened tensor as a table with one column per index of an axis.

    Args:
        flat: one label per element, row-major.
        shape: of the tensor.
        axis: the one whose indices are to be the columns.

    Returns:
        Shape (elements / shape[axis], shape[axis]).
    """
    return np.moveaxis(flat.reshape(shape), axis, -1).reshape(-1, shape[axis])
