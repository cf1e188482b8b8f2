"""The steps of a run: every operator that gives feature maps, and what it was given."""

from __future__ import annotations

from dataclasses import dataclass, replace

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


def contracted(steps: list[Step], shown: list[int]) -> list[Step]:
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
