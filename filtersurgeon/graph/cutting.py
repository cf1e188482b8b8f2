"""Copying what is left of a tensor once some indices of its axes are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.graph.labels import Ids

_WORDS = {
    1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128,
}  # fmt: skip
"""Types that NumPy has, by their bytes: it has no bfloat16, but a copy needs only the size."""

_BLOCK = 1 << 16
"""Elements that are copied in one go: they stay in the cache between the two axes."""

_ALIGNMENT = 64

Words = NDArray[Any]
Kept = Mapping[int, Ids]

_RUN = 8
"""From so many neighbouring elements on, it is faster to fetch every run by its own index."""


class Room:
    """One stretch of memory for the tensors of a cut.

    NumPy asks for huge pages for it; ResNet-50's tensors each by themselves take a third more time,
    as every small page of theirs has to be fetched.

    Args:
        size: bytes.
    """

    def __init__(self, size: int) -> None:
        self._bytes = np.empty(size, np.uint8)
        self._used = 0

    @staticmethod
    def needed(size: int) -> int:
        """Give the bytes that an array of a size takes up here, so that every one is aligned."""
        return -(-size // _ALIGNMENT) * _ALIGNMENT

    def take(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Words:
        """Give an array that nothing is written into yet."""
        size = prod(shape) * dtype.itemsize
        start, self._used = self._used, self._used + self.needed(size)
        return self._bytes[start : start + size].view(dtype).reshape(shape)


def cut_all(cuts: Sequence[tuple[Tensor, Kept]]) -> list[Tensor]:
    """Copy the indices that are left of tensors.

    NumPy copies on one thread; VGG-16 takes a third of the CPU time that ``index_select`` takes
    for one axis after the other.

    Args:
        cuts: tensors of any types, each with the indices that are left, ascending, by axis.
    """
    shapes = [
        [len(kept.get(axis, range(size))) for axis, size in enumerate(tensor.shape)]
        for tensor, kept in cuts
    ]
    sizes = (prod(s) * t.element_size() for (t, _), s in zip(cuts, shapes, strict=True))
    room = Room(sum(map(Room.needed, sizes)))
    return [_cut(tensor, kept, room) for tensor, kept in cuts]


def _cut(tensor: Tensor, kept: Kept, room: Room) -> Tensor:
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    words = plain.view(_WORDS[plain.element_size()]).numpy()
    if kept.keys() == {0, 1}:
        return torch.from_numpy(_cut_table(words, kept[0], kept[1], room)).view(tensor.dtype)
    *others, last = kept
    for axis in others:
        words = words.take(kept[axis], axis)
    shape = (*words.shape[:last], len(kept[last]), *words.shape[last + 1 :])
    # Without "clip", NumPy fills a buffer first.
    made = words.take(kept[last], last, out=room.take(shape, words.dtype), mode="clip")
    return torch.from_numpy(made).view(tensor.dtype)


def _cut_table(words: Words, rows: Ids, columns: Ids, room: Room) -> Words:
    """Copy what is left of the first two axes, reading only that.

    Args:
        words: (rows, columns, ...).
        rows: the rows that are left.
        columns: the columns that are left.
        room: memory.
    """
    shape = (len(rows), len(columns), *words.shape[2:])
    table = words.reshape(*words.shape[:2], -1)
    if words.ndim == 2:
        # The columns of a linear layer after a flattening go by whole channels.
        together = _unit(columns, words.shape[1])
        table = words.reshape(len(words), -1, together)
        columns = columns[::together] // together
    _, width, run = table.shape
    made = room.take((len(rows), len(columns), run), words.dtype)
    step = max(1, _BLOCK // max(1, width * run))
    for start in range(0, len(rows), step):
        some, part = rows[start : start + step], made[start : start + step]
        if run < _RUN:
            table.take(some, 0, mode="clip").take(columns, 1, out=part, mode="clip")
        else:
            runs = (some[:, None] * width + columns).ravel()
            table.reshape(-1, run).take(runs, 0, out=part.reshape(-1, run), mode="clip")
    return made.reshape(shape)


def _unit(indices: Ids, length: int) -> int:
    """Give the largest number in whose multiples all stretches of indices begin and end.

    Args:
        indices: ascending.
        length: of the axis, a multiple too.
    """
    edges = np.flatnonzero(np.diff(indices) != 1)
    ends = indices[edges] + 1, indices[edges + 1], indices[:1], indices[-1:] + 1
    return int(np.gcd.reduce(np.concatenate([*ends, [length]])))
