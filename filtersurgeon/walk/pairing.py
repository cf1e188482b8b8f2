"""Sections of a network, and the channels of it that another network pruned from it has kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

import numpy as np

from filtersurgeon.walk.layout import Step

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
            return _join_sections([".".join(words[n][: depth[n]]) for n in range(len(words))])
        for n in again:
            depth[n] += 1


def _join_sections(names: list[str]) -> list[str]:
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


Weight = Callable[[str], np.ndarray | None]
"""Gives a module's weight, ``(filters, inputs per group, height, width)``, by its name."""

Norms = Callable[[str], np.ndarray | None]
"""Gives what a module that reads channels one by one knows of each, ``(channels, n)``."""


def find_kept_channels(
    original: Sequence[Step],
    pruned: Sequence[Step],
    counts: tuple[Mapping[str, int], Mapping[str, int]],
    weights: tuple[Weight, Weight],
    norms: tuple[Norms, Norms],
) -> dict[str, tuple[int, ...]]:
    """Find for every step of the pruned network which channels of the original one it still has.

    Pruning keeps the order of channels. Those of a layer are found by the weights of its filters,
    restricted to the inputs that are left; failing that, by the values that the normalisation
    behind it has for each channel. Steps without weights take over what goes into them. All
    comparisons are exact.

    Args:
        original: every step of the first network.
        pruned: every step of the second.
        counts: channels by the step's name, of both.
        weights: of both.
        norms: of both.

    Returns:
        By step name. Steps whose channels cannot be told are missing.
    """
    partners = {step.name: step for step in original}
    after = tuple(_readers(steps) for steps in (original, pruned))
    found: dict[str, tuple[int, ...]] = {}
    for step in pruned:
        other = partners.get(step.name)
        if other is None or other.kind != step.kind:
            continue
        many, few = counts[0][step.name], counts[1][step.name]
        inputs = [found.get(pruned[feed.step].name) for feed in step.feeds]
        kept: tuple[int, ...] | None = None
        if step.kind in ("conv", "linear"):
            one, two = (weight(step.module) for weight in weights)
            kept = _by_filters(one, two, inputs[0] if inputs else None)
            if kept is None:
                kept = _by_norm(step.name, after, norms)
        elif step.kind == "concat":
            sizes = [counts[0].get(original[feed.step].name, 0) for feed in other.feeds]
            kept = _join(inputs, sizes) if sum(sizes) == many else None
        else:
            kept = next((one for one in inputs if one is not None and len(one) == few), None)
        if kept is None and few == many:
            kept = tuple(range(few))
        if kept is not None and len(kept) == few and (not kept or kept[-1] < many):
            found[step.name] = kept
    return found


def _by_filters(
    original: np.ndarray | None, pruned: np.ndarray | None, inputs: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    if original is None or pruned is None or original.shape[2:] != pruned.shape[2:]:
        return None
    if original.shape[1] == 1 and pruned.shape[1] == 1 and inputs is not None:
        # Depthwise: a filter goes with its channel, and equal kernels could be mistaken.
        if len(inputs) == len(pruned) and np.array_equal(original[list(inputs)], pruned):
            return inputs
        return None
    if original.shape[1] != pruned.shape[1]:
        if inputs is None or len(inputs) != pruned.shape[1] or max(inputs) >= original.shape[1]:
            return None
        original = original[:, list(inputs)]
    return subsequence(original.reshape(len(original), -1), pruned.reshape(len(pruned), -1))


def _by_norm(
    name: str, after: tuple[Mapping[str, Step], ...], norms: tuple[Norms, Norms]
) -> tuple[int, ...] | None:
    steps = [readers.get(name) for readers in after]
    values = [norm(step.module) if step else None for norm, step in zip(norms, steps, strict=True)]
    one, two = values
    if one is None or two is None or one.shape[1:] != two.shape[1:]:
        return None
    return subsequence(one, two)


def _readers(steps: Sequence[Step]) -> dict[str, Step]:
    """Give the first step that reads each step."""
    found: dict[str, Step] = {}
    for step in steps:
        for feed in step.feeds:
            found.setdefault(steps[feed.step].name, step)
    return found


def _join(inputs: Sequence[tuple[int, ...] | None], sizes: Sequence[int]) -> tuple[int, ...] | None:
    if len(inputs) != len(sizes):
        return None
    joined: list[int] = []
    start = 0
    for part, size in zip(inputs, sizes, strict=True):
        if part is None:
            return None
        joined += [start + channel for channel in part]
        start += size
    return tuple(joined)


def subsequence(rows: np.ndarray, chosen: np.ndarray) -> tuple[int, ...] | None:
    """Find rows that were chosen from others, their order kept.

    Args:
        rows: ``(n, l)``.
        chosen: ``(m, l)``.

    Returns:
        The place of each chosen row among the rows, rising; of equal rows the first that fits.
        None if they are not all there.
    """
    if rows.shape[1] != chosen.shape[1]:
        return None
    found = []
    place = 0
    keys = [row.tobytes() for row in np.ascontiguousarray(rows)]
    for row in np.ascontiguousarray(chosen):
        key = row.tobytes()
        while place < len(keys) and keys[place] != key:
            place += 1
        if place == len(keys):
            return None
        found.append(place)
        place += 1
    return tuple(found)
