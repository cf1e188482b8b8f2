"""How many channels each bundle keeps: the least loss for a number of operations or parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.graph import ChannelGraph
from filtersurgeon.pruning.reconstruction.layers import Candidate

Floats = NDArray[np.float64]


class Sizes:
    """Parameters and operations of a network as a function of the widths of its bundles.

    Every product of lengths in the cost is one of numbers ``fixed + counts @ widths``.

    Args:
        graph: the network's channels.
        candidates: the bundles whose widths vary.
        quantity: ``params`` or ``macs``.
        keep: group -> whether it is kept, of all others.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        candidates: Sequence[Candidate],
        quantity: str,
        keep: NDArray[np.bool_],
    ) -> None:
        self.full = np.array([candidate.width for candidate in candidates], np.int64)
        owner = np.full(len(graph.groups), -1)
        for number, candidate in enumerate(candidates):
            owner[candidate.bundle.groups] = number
        terms = CostModel(graph).terms(quantity)
        depth = max(len(term) for term in terms)
        self._fixed = np.ones((len(terms), depth))
        self._counts = np.zeros((len(terms), depth, len(candidates)))
        for row, term in enumerate(terms):
            for column, (size, axis) in enumerate(term):
                if axis is None:
                    self._fixed[row, column] = size
                    continue
                groups = graph.groups.of[axis[axis >= 0]]
                owners = owner[groups]
                lost = int((~keep[groups[owners < 0]]).sum())
                counts = np.bincount(owners[owners >= 0], minlength=len(candidates))
                self._fixed[row, column] = size - lost - counts.sum()
                self._counts[row, column] = counts / np.maximum(self.full, 1)
        busy = self._counts.any(axis=(1, 2))
        self._rest = float(self._fixed[~busy].prod(axis=1).sum())
        self._fixed, self._counts = self._fixed[busy], self._counts[busy]

    def __call__(self, widths: NDArray[np.int64]) -> float:
        """Give the size with these widths."""
        return self._rest + float(self._lengths(widths).prod(axis=1).sum())

    def slopes(self, widths: NDArray[np.int64]) -> Floats:
        """Give what the last group of each bundle adds to the size."""
        lengths = self._lengths(widths)
        found = np.zeros(len(widths))
        for column in range(lengths.shape[1]):
            others = np.delete(lengths, column, axis=1).prod(axis=1)
            found += others @ self._counts[:, column]
        return found

    def _lengths(self, widths: NDArray[np.int64]) -> Floats:
        found: Floats = self._fixed + self._counts @ widths
        return found


@dataclass(frozen=True)
class Widths:
    """What an allocation chose.

    Attributes:
        kept: candidate -> how many groups it keeps.
        size: of the network then.
        loss: predicted, the sum over the bundles.
    """

    kept: NDArray[np.int64]
    size: float
    loss: float


def allocate(
    sizes: Sizes,
    losses: Sequence[Floats],
    allowed: Sequence[NDArray[np.int64]],
    wanted: float,
    whole: float = 1.0,
) -> Widths:
    """Choose widths so that the network is small enough and the losses add up to least.

    Bundles lose channels step by step, always where the loss per size saved is least, along the
    lower convex hull of each loss. What the last step took too much is given back where it helps
    most.

    Args:
        sizes: size by widths.
        losses: of each bundle, by the number of groups removed.
        allowed: of each bundle, how many groups may be removed, ascending from 0.
        wanted: the size.
        whole: how much more a bundle that goes whole saves than its share of the size.

    Returns:
        The widths; larger than wanted only where all is cut that may be.
    """
    removed = np.zeros(len(losses), np.int64)
    widths = sizes.full
    saves = [np.arange(len(loss), dtype=np.float64) for loss in losses]
    for saved, width in zip(saves, widths, strict=True):
        saved[width:] *= whole
    hulls = [_hull(*each) for each in zip(losses, allowed, saves, strict=True)]
    at = [0] * len(losses)
    size = sizes(widths)
    while size > wanted:
        slopes = sizes.slopes(widths - removed)
        best, where = np.inf, -1
        for number, hull in enumerate(hulls):
            if at[number] + 1 < len(hull):
                now, then = hull[at[number]], hull[at[number] + 1]
                saved = (saves[number][then] - saves[number][now]) * max(slopes[number], 1e-9)
                price = (losses[number][then] - losses[number][now]) / saved
                if price < best:
                    best, where = price, number
        if where < 0:
            break
        at[where] += 1
        removed[where] = hulls[where][at[where]]
        size = sizes(widths - removed)
    removed = _give_back(sizes, losses, allowed, widths, removed, wanted)
    total = float(sum(loss[count] for loss, count in zip(losses, removed, strict=True)))
    return Widths(widths - removed, sizes(widths - removed), total)


def _hull(loss: Floats, allowed: NDArray[np.int64], saved: Floats) -> list[int]:
    """Give the numbers of removed groups on the lower convex hull of a loss by what is saved."""
    hull: list[int] = []
    for number in allowed.tolist():
        while len(hull) > 1:
            one, two = hull[-2], hull[-1]
            before = (loss[two] - loss[one]) * (saved[number] - saved[two])
            after = (loss[number] - loss[two]) * (saved[two] - saved[one])
            if before < after:
                break
            hull.pop()
        hull.append(number)
    return hull


def _give_back(
    sizes: Sizes,
    losses: Sequence[Floats],
    allowed: Sequence[NDArray[np.int64]],
    widths: NDArray[np.int64],
    removed: NDArray[np.int64],
    wanted: float,
) -> NDArray[np.int64]:
    """Use up the room that is left below the size that is wanted."""
    removed = removed.copy()
    if sizes(widths - removed) > wanted:
        return removed
    while True:
        room = wanted - sizes(widths - removed)
        slopes = sizes.slopes(widths - removed)
        best, where, count = 0.0, -1, 0
        for number, numbers in enumerate(allowed):
            lower = numbers[numbers < removed[number]]
            for fewer in lower[::-1][:8].tolist():
                cost = (removed[number] - fewer) * slopes[number]
                if cost > room:
                    break
                gain = (losses[number][removed[number]] - losses[number][fewer]) / max(cost, 1e-9)
                if gain > best:
                    best, where, count = gain, number, fewer
        if where < 0:
            return removed
        tried = removed.copy()
        tried[where] = count
        if sizes(widths - tried) > wanted:
            return removed
        removed = tried


def uniform(
    sizes: Sizes, allowed: Sequence[NDArray[np.int64]], widths: NDArray[np.int64], wanted: float
) -> Widths:
    """Cut the same share of every bundle, to one step of its width."""

    def at(share: float) -> NDArray[np.int64]:
        found = [
            numbers[np.searchsorted(numbers, share * width, side="right") - 1]
            for numbers, width in zip(allowed, widths, strict=True)
        ]
        return np.array(found, np.int64)

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        if sizes(widths - at(middle)) > wanted:
            low = middle
        else:
            high = middle
    kept = widths - at(high)
    # Many bundles may lose a group at the same share; those that need not are given it back.
    for number, more in enumerate(widths - at(low)):
        tried = kept.copy()
        tried[number] = more
        if sizes(tried) <= wanted:
            kept = tried
    return Widths(kept, sizes(kept), float("nan"))


def allowed_removals(width: int, most: int, step: int, least: int = 1) -> NDArray[np.int64]:
    """List how many groups of a bundle may be removed.

    Args:
        width: groups in the bundle.
        most: how many may go at most.
        step: what is left is a multiple of so many, unless nothing goes.
        least: how many stay at least.
    """
    numbers = np.arange(min(most, width - least) + 1)
    return numbers[(numbers == 0) | ((width - numbers) % step == 0)]
