"""The steps of a run, and where their panels stand: by longest path, branches side by side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, sqrt

import numpy as np

HIDDEN = ("norm",)
"""Kinds that scale and shift maps but do not change what they show."""


@dataclass(frozen=True)
class Feed:
    """What a step was given.

    Attributes:
        step: the number of the step that made it.
        through: what happened to it on the way, such as ``split`` or the name of a normalisation.
    """

    step: int
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One operator as it ran.

    Attributes:
        name: the module's name; of operators in a module's own code that name, a slash and the
            operator (``layer1.0/add``). A second run of the same has ``#2`` behind it.
        module: the module's name; for operators, of the module whose code they are in.
        kind: ``input``, ``conv``, ``linear``, ``norm``, ``activation``, ``pool``, ``add``,
            ``multiply``, ``concat``, ``matmul`` or ``other``.
        text: what it does, for people.
        feeds: where its inputs come from, in their order.
    """

    name: str
    module: str
    kind: str
    text: str
    feeds: tuple[Feed, ...]


def without_hidden(steps: list[Step], hidden: tuple[str, ...] = HIDDEN) -> list[int]:
    """Give the numbers of the steps that are shown: all but those of the hidden kinds.

    A hidden step whose maps leave the network, or that has several inputs, is shown.
    """
    read = {feed.step for step in steps for feed in step.feeds}
    return [
        number
        for number, step in enumerate(steps)
        if step.kind not in hidden or number not in read or len(step.feeds) != 1
    ]


def contract(steps: list[Step], shown: list[int]) -> list[Step]:
    """Leave the other steps out: what reads them reads what they read, through them."""
    place = {number: new for new, number in enumerate(shown)}

    def source(feed: Feed) -> Feed:
        through = feed.through
        number = feed.step
        while number not in place:
            step = steps[number]
            through = (*step.feeds[0].through, step.text, *through)
            number = step.feeds[0].step
        return Feed(place[number], through)

    return [replace(steps[n], feeds=tuple(map(source, steps[n].feeds))) for n in shown]


SPACING = 3.4
"""Metres from one rank to the next."""
_AISLE = 0.9
_LANE = 0.45
_SWEEPS = 6


@dataclass(frozen=True)
class Place:
    """A panel's place, in metres.

    Attributes:
        rank: steps from the image, on the longest way.
        x: of its middle, to the right of the image.
        z: distance from the image along the flow.
        width: of the panel.
        height: of the panel.
        columns: maps side by side on it.
    """

    rank: int
    x: float
    z: float
    width: float
    height: float
    columns: int


@dataclass(frozen=True)
class Way:
    """An edge on the floor.

    Attributes:
        source: number of the step that it leaves.
        target: number of the step that it enters.
        via: its ``x`` at every rank in between.
        text: what happens on the way; may be empty.
    """

    source: int
    target: int
    via: tuple[float, ...]
    text: str


def panel_size(channels: int, height: int, width: int) -> tuple[float, float, int]:
    """Give a panel's width and height in metres, and how many maps stand side by side.

    The larger the maps, the larger the panel, but by the logarithm: 1.3 to 4.2 metres.
    """
    columns = max(1, min(channels, round(sqrt(channels * height / width))))
    if channels > columns and channels % columns:
        near = [c for c in range(columns, 2 * columns + 1) if channels % c == 0]
        columns = near[0] if near else columns
    rows = ceil(channels / columns)
    ratio = (columns * width) / (rows * height)
    side = min(4.2, max(1.3, 1.3 + 0.5 * log2(sqrt(channels * height * width) / 40)))
    return side * sqrt(ratio), side / sqrt(ratio), columns


def ranks_of(steps: Sequence[Step]) -> list[int]:
    """Count the steps on the longest way from the image to each step."""
    ranks: list[int] = []
    for step in steps:
        ranks.append(1 + max((ranks[feed.step] for feed in step.feeds), default=-1))
    return ranks


def lay_out(
    steps: Sequence[Step], shapes: Sequence[tuple[int, int, int]]
) -> tuple[list[Place], list[Way]]:
    """Place the panels of a run and lead its edges between them.

    Edges over several ranks get a lane of their own in between; those that leave the same panel
    share it. The order within a rank follows the neighbours' (barycentres, Sugiyama et al., 1981),
    and places are the closest to the neighbours' that keep the order and the distances.

    Args:
        steps: in the order of the run.
        shapes: channels, height and width of each step's maps.
    """
    sizes = [panel_size(*shape) for shape in shapes]
    ranks = ranks_of(steps)
    lanes = _Lanes(steps, ranks, [width for width, _, _ in sizes])
    lanes.arrange()
    x = lanes.x
    middle = x[0] if steps else 0.0
    places = [Place(rank, x[n] - middle, SPACING * rank, *sizes[n]) for n, rank in enumerate(ranks)]
    ways = []
    for target, step in enumerate(steps):
        for feed in step.feeds:
            through = (lanes.lane[feed.step, r] for r in range(ranks[feed.step] + 1, ranks[target]))
            via = tuple(x[lane] - middle for lane in through)
            ways.append(Way(feed.step, target, via, ", ".join(dict.fromkeys(feed.through))))
    return places, ways


class _Lanes:
    """Panels and the lanes beside them, rank by rank."""

    def __init__(self, steps: Sequence[Step], ranks: list[int], widths: list[float]) -> None:
        self.rows: dict[int, list[int]] = defaultdict(list)
        self.lane: dict[tuple[int, int], int] = {}
        self.width = [width + _AISLE for width in widths]
        self.above: list[list[int]] = [[] for _ in steps]
        self.below: list[list[int]] = [[] for _ in steps]
        for number, rank in enumerate(ranks):
            self.rows[rank].append(number)
        for target, step in enumerate(steps):
            for feed in step.feeds:
                before = feed.step
                for rank in range(ranks[feed.step] + 1, ranks[target]):
                    before = self._lane(feed.step, rank, before)
                self._join(before, target)
        self.x = [0.0] * len(self.width)

    def _lane(self, source: int, rank: int, before: int) -> int:
        if (source, rank) not in self.lane:
            number = self.lane[source, rank] = len(self.width)
            self.width.append(_LANE)
            self.above.append([])
            self.below.append([])
            self.rows[rank].append(number)
            self._join(before, number)
        return self.lane[source, rank]

    def _join(self, one: int, other: int) -> None:
        self.below[one].append(other)
        self.above[other].append(one)

    def arrange(self) -> None:
        """Order the ranks, then place what is in them."""
        order = sorted(self.rows)
        for rank in order:
            self._settle(rank, [self.x[n] for n in self.rows[rank]])
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            for rank in order if down else reversed(order):
                row = self.rows[rank]
                near = self.above if down else self.below
                wanted = {n: self._mean(near[n], self.x[n]) for n in row}
                if sweep < _SWEEPS - 2:
                    row.sort(key=wanted.__getitem__)
                self._settle(rank, [wanted[n] for n in row])

    def _mean(self, numbers: list[int], otherwise: float) -> float:
        return sum(self.x[n] for n in numbers) / len(numbers) if numbers else otherwise

    def _settle(self, rank: int, wanted: list[float]) -> None:
        """Place a rank as close to what is wanted as its order and widths allow."""
        row = self.rows[rank]
        halves = np.array([self.width[n] / 2 for n in row])
        offsets = np.concatenate([[0.0], np.cumsum(halves[:-1] + halves[1:])])
        # A panel stays where it is wanted rather than a lane.
        fitted = fit_rising(np.array(wanted) - offsets, np.square(halves)) + offsets
        for number, x in zip(row, fitted.tolist(), strict=True):
            self.x[number] = x


def fit_rising(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Give the closest sequence that never falls, by weighted least squares.

    Neighbours that violate the order are pooled until none do.

    Args:
        values: ``(n,)``.
        weights: ``(n,)``, positive.
    """
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            before, heavy, many = pools.pop()
            mean = (before * heavy + mean * total) / (heavy + total)
            total, count = total + heavy, count + many
        pools.append((mean, total, count))
    return np.concatenate([np.full(count, mean) for mean, _, count in pools])
