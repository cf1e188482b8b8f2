"""Which channels of a network are left in another that was cut out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from filtersurgeon.walk.steps import Step

Weight = Callable[[str], np.ndarray | None]
"""Gives a module's weight, ``(filters, inputs per group, height, width)``, by its name."""

Norms = Callable[[str], np.ndarray | None]
"""Gives what a module that reads channels one by one knows of each, ``(channels, n)``."""


def kept_channels(
    wide: Sequence[Step],
    slim: Sequence[Step],
    counts: tuple[Mapping[str, int], Mapping[str, int]],
    weights: tuple[Weight, Weight],
    norms: tuple[Norms, Norms],
) -> dict[str, tuple[int, ...]]:
    """Find for every step of the slim network which channels of the wide one it still has.

    Surgery keeps the order of channels. Those of a layer are found by the weights of its filters,
    restricted to the inputs that are left; failing that, by the values that the normalisation
    behind it has for each channel. Steps without weights take over what goes into them. All
    comparisons are exact.

    Args:
        wide: every step of the first network.
        slim: every step of the second.
        counts: channels by the step's name, of both.
        weights: of both.
        norms: of both.

    Returns:
        By step name. Steps whose channels cannot be told are missing.
    """
    partners = {step.name: step for step in wide}
    after = tuple(_readers(steps) for steps in (wide, slim))
    found: dict[str, tuple[int, ...]] = {}
    for step in slim:
        other = partners.get(step.name)
        if other is None or other.kind != step.kind:
            continue
        many, few = counts[0][step.name], counts[1][step.name]
        inputs = [found.get(slim[feed.step].name) for feed in step.feeds]
        kept: tuple[int, ...] | None = None
        if step.kind in ("conv", "linear"):
            one, two = (weight(step.module) for weight in weights)
            kept = _by_filters(one, two, inputs[0] if inputs else None)
            if kept is None:
                kept = _by_norm(step.name, after, norms)
        elif step.kind == "concat":
            sizes = [counts[0].get(wide[feed.step].name, 0) for feed in other.feeds]
            kept = _join(inputs, sizes) if sum(sizes) == many else None
        else:
            kept = next((one for one in inputs if one is not None and len(one) == few), None)
        if kept is None and few == many:
            kept = tuple(range(few))
        if kept is not None and len(kept) == few and (not kept or kept[-1] < many):
            found[step.name] = kept
    return found


def _by_filters(
    wide: np.ndarray | None, slim: np.ndarray | None, inputs: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    if wide is None or slim is None or wide.shape[2:] != slim.shape[2:]:
        return None
    if wide.shape[1] == 1 and slim.shape[1] == 1 and inputs is not None:
        # Depthwise: a filter goes with its channel, and equal kernels could be mistaken.
        if len(inputs) == len(slim) and np.array_equal(wide[list(inputs)], slim):
            return inputs
        return None
    if wide.shape[1] != slim.shape[1]:
        if inputs is None or len(inputs) != slim.shape[1] or max(inputs) >= wide.shape[1]:
            return None
        wide = wide[:, list(inputs)]
    return subsequence(wide.reshape(len(wide), -1), slim.reshape(len(slim), -1))


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
