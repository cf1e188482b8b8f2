"""One bank for several kernel sizes: derivatives of Gaussians chosen for all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from filtersurgeon.banks.bank import FilterBank, bank_of_derivatives
from filtersurgeon.banks.closest import unit_bank
from filtersurgeon.banks.collection import KernelCollection
from filtersurgeon.banks.scale_space import ORDERS, Derivative, can_fit, derivative
from filtersurgeon.errors import LayerError, OptionError

SCALES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
"""Along each axis, of the candidates."""

_MOST = 4000  # kernels of a size that are looked at
_ROUNDS = 20


def choose_derivatives(
    collections: Sequence[KernelCollection], count: int, seed: int = 0
) -> FilterBank:
    """Choose the derivatives of Gaussians that explain kernels of several sizes best.

    Candidates are all orders at ten scales along each axis. One is added at a time, the one that
    lowers the squared error most; then members are exchanged for others as long as that lowers it.
    The error is that of mean-free kernels of unit norm, and every size has the same weight.

    Args:
        collections: the kernels, one collection for each size.
        count: number of members.
        seed: draws the kernels that are looked at, 4,000 of a size at most.

    Returns:
        The bank, at the largest of the sizes.

    Raises:
        LayerError: a size is even or less than 3.
        OptionError: more members than candidates.
    """
    for collection in collections:
        if not can_fit(collection.size):
            sides = "x".join(map(str, collection.size))
            raise LayerError(f"kernels of {sides} have no middle; choose other sizes with `size`")
    candidates = [Derivative(*each) for each in product(ORDERS, SCALES, SCALES)]
    if not 1 <= count <= len(candidates):
        raise OptionError(f"`count` {count} should be from 1 to {len(candidates)}")
    gains = _gains(collections, candidates, seed)
    chosen: list[int] = []
    best = np.zeros(len(gains))
    while len(chosen) < count:
        chosen.append(_addition(gains, best, chosen))
        best = np.maximum(best, gains[:, chosen[-1]])
    for _ in range(_ROUNDS):
        before = list(chosen)
        for place in range(count):
            others = chosen[:place] + chosen[place + 1 :]
            left = gains[:, others].max(axis=1, initial=0.0)
            other = _addition(gains, left, others)
            # Ties would let members change places for ever.
            old = np.maximum(left, gains[:, chosen[place]]).sum()
            if np.maximum(left, gains[:, other]).sum() > old * (1 + 1e-9):
                chosen[place] = other
        if chosen == before:
            break
    members = sorted((candidates[k] for k in chosen), key=_rank)
    size = max(collection.size for collection in collections)
    sides = ", ".join(f"{h}x{w}" for h, w in sorted(c.size for c in collections))
    text = f"{count} derivatives of Gaussians, chosen for trained kernels of {sides}"
    found = bank_of_derivatives(f"scale-space-{count}", members, size, text)
    assert found is not None
    return found


def _rank(member: Derivative) -> tuple[int, float, float]:
    return ORDERS.index(member.order), member.sigma_x, member.sigma_y


def _gains(
    collections: Sequence[KernelCollection], candidates: Sequence[Derivative], seed: int
) -> np.ndarray:
    """Give the share of each kernel's energy that each candidate explains, weighted by size."""
    generator, parts = np.random.default_rng(seed), []
    for collection in collections:
        unit = collection.normalised()
        if len(unit) > _MOST:
            unit = unit[np.sort(generator.choice(len(unit), _MOST, replace=False))]
        made = np.stack([derivative(*each, collection.size).ravel() for each in candidates])
        parts.append(np.square(unit @ unit_bank(made).T) / len(unit))
    return np.concatenate(parts)


def _addition(gains: np.ndarray, best: np.ndarray, taken: Sequence[int]) -> int:
    """Give the candidate that explains most beside what is explained already."""
    totals = np.maximum(gains, best[:, None]).sum(axis=0)
    totals[list(taken)] = -1.0
    return int(totals.argmax())
