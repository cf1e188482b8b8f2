"""Channel groups: what lives or dies together, and bundles of groups that serve the same layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.graph.labels import Constraints, Ids, Labels, Reason

Mask = NDArray[np.bool_]


def survivors(ids: Ids, alive: Mask) -> Ids:
    """Give the labels of a vector that are kept; what is no channel stays."""
    keep = alive[ids]
    keep |= ids < 0
    return ids if keep.all() else ids[keep]


@dataclass(frozen=True)
class Groups:
    """The labels of a trace, joined into groups.

    Attributes:
        of: label -> group.
        pinned: group -> whether it is never removed.
        slots: name of a tensor -> its labels.
        constraints: the ties and pins that they come from.
    """

    of: NDArray[np.int64]
    pinned: Mask
    slots: Mapping[str, Labels]
    constraints: Constraints

    def __len__(self) -> int:
        return len(self.pinned)

    @cached_property
    def axes(self) -> tuple[list[tuple[str, int]], Ids, Ids]:
        """Every axis with channels: tensor and number, their groups in a row, and how many."""
        owners, vectors = [], [np.empty(0, np.int64)]
        for name, labels in self.slots.items():
            for axis, ids in enumerate(labels):
                if ids is not None:
                    owners.append((name, axis))
                    vectors.append(ids)
        counts = np.array([len(ids) for ids in vectors[1:]], np.int64)
        return owners, self.of[np.concatenate(vectors)], counts

    @cached_property
    def bundles(self) -> list[Bundle]:
        """The groups that touch exactly the same axes of the same tensors, taken together.

        Pinned groups and free ones are never in one bundle.
        """
        owners, members, counts = self.axes
        if not owners:
            return []
        owner = np.repeat(np.arange(len(owners)), counts)
        # Sorting is several times faster than the hashing of np.unique.
        pairs_of = np.sort(members * len(owners) + owner)
        first_of = np.ones(len(pairs_of), bool)
        np.not_equal(pairs_of[1:], pairs_of[:-1], out=first_of[1:])
        group, owner = np.divmod(pairs_of[first_of], len(owners))
        # A set of owners is told by the sum of random numbers of its members.
        marks = np.random.default_rng(0).integers(1, 2**62, len(owners), dtype=np.uint64)
        signature = self.pinned.astype(np.uint64)
        np.add.at(signature, group, marks[owner])
        touched = group[np.concatenate([[True], group[1:] != group[:-1]])]
        _, first, inverse = np.unique(signature[touched], return_index=True, return_inverse=True)
        starts = np.searchsorted(group, touched[first])
        stops = np.searchsorted(group, touched[first], side="right")
        order = np.argsort(inverse, kind="stable")
        inside = np.split(touched[order], np.cumsum(np.bincount(inverse))[:-1])
        bundles = [
            Bundle(ids, tuple(owners[o] for o in owner[start:stop]), bool(self.pinned[ids[0]]))
            for ids, start, stop in zip(inside, starts, stops, strict=True)
        ]
        return sorted(bundles, key=lambda bundle: int(bundle.groups[0]))

    def members(self, axis: Ids) -> Ids:
        """Give the group of every channel of an axis."""
        return self.of[axis[axis >= 0]]

    def reasons(self, groups: Iterable[int]) -> list[Reason]:
        """Say why some groups are pinned, each reason once, in the order of the run."""
        wanted = np.zeros(len(self), bool)
        wanted[list(groups)] = True
        found = (reason for ids, reason in self.constraints.pins if wanted[self.of[ids]].any())
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Bundle:
    """Groups of channels that touch the same axes, such as the channels between two layers.

    Attributes:
        groups: their numbers.
        axes: (tensor, axis) pairs.
        pinned: whether they are never removed.
    """

    groups: Ids
    axes: tuple[tuple[str, int], ...]
    pinned: bool


def join(constraints: Constraints, slots: Mapping[str, Labels]) -> Groups:
    """Join labels along their ties."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    empty = np.empty(0, np.int64)
    one = np.concatenate([empty, *(a for a, _ in constraints.ties)])
    other = np.concatenate([empty, *(b for _, b in constraints.ties)])
    links = coo_array((np.ones(len(one)), (one, other)), shape=(constraints.size, constraints.size))
    # Given rows of float64, SciPy takes half of the time that its own conversion takes.
    count, of = connected_components(links.tocsr(), directed=False)
    pinned = np.zeros(count, bool)
    for ids, _ in constraints.pins:
        pinned[of[ids]] = True
    return Groups(of.astype(np.int64), pinned, slots, constraints)


def channels_each(groups: Groups, axes: tuple[tuple[str, int], ...], group: int) -> int:
    """Count the channels of one group along an axis of the bundle, the least of them."""
    counts = []
    for name, axis in axes:
        ids = groups.slots[name][axis]
        assert ids is not None
        counts.append(int((groups.of[ids[ids >= 0]] == group).sum()))
    return max(1, min(counts))
