"""Sections of a network, by the names of its modules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

_FEW = 2


def sections_of(modules: Sequence[str]) -> list[str]:
    """Name the section of every module: the part of its name that says where in the network it is.

    That is the first word of the name; but where more than three quarters of all modules begin
    alike, one word more, and so on: ``layer1`` for ``layer1.0.conv1``, ``stages.2`` for
    ``stages.2.blocks.0.mlp.fc1`` in a network that consists of stages.

    Args:
        modules: names; an empty one belongs to no section.
    """
    words = [tuple(name.split(".")) if name else () for name in modules]
    depth = dict.fromkeys(range(len(words)), 1)
    while True:
        heads = Counter(words[n][: depth[n]] for n in depth if words[n])
        large = {head for head, count in heads.items() if 4 * count > 3 * len(words)}
        again = [
            n for n in depth
            if words[n][: depth[n]] in large and len(words[n]) > depth[n] + 1
        ]  # fmt: skip
        if not again:
            return _join([".".join(words[n][: depth[n]]) for n in range(len(words))])
        for n in again:
            depth[n] += 1


def _join(names: list[str]) -> list[str]:
    """Join neighbouring sections of one or two modules, such as a stem, under both their names."""
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    counts = Counter(names)
    found: list[str] = []
    for small, group in groupby(runs, lambda run: bool(run[0]) and counts[run[0]] <= _FEW):
        members = list(group)
        if small and len(members) > 1:
            found += [f"{members[0][0]} \u2013 {members[-1][0]}"] * sum(size for _, size in members)
        else:
            found += [name for name, size in members for _ in range(size)]
    return found
