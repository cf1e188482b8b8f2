"""Elimination by the squared error of all kernels, without images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.closest import unit_bank
from filtersurgeon.banks.elimination import Elimination
from filtersurgeon.banks.search.result import SearchStep
from filtersurgeon.checkpoint.progress import Progress


def steps_by_error(
    elimination: Elimination,
    start: FilterBank,
    to: int,
    plain: bool,
    kernels: np.ndarray,
    progress: Progress | None,
) -> Iterator[SearchStep]:
    """Remove the member whose loss costs the least squared error, until so many are left.

    Args:
        elimination: the kernels, and how they are assigned; changed on the way.
        start: the whole bank.
        to: the last size.
        plain: assign all kernels anew for every candidate.
        kernels: as rows.
        progress: told candidates done and candidates in all.
    """
    total = sum(range(to + 1, len(start) + 1))
    yield SearchStep(len(start), None, elimination.relative_error, None)
    done = 0
    while len(elimination.left) > to:
        costs = _plain_costs(elimination, start, kernels) if plain else elimination.costs()
        member = int(elimination.left[costs.argmin()])
        done += len(elimination.left)
        elimination.remove(member)
        if progress:
            progress(done, total)
        yield SearchStep(
            len(elimination.left), start.labels[member], elimination.relative_error, None
        )


def _plain_costs(elimination: Elimination, start: FilterBank, kernels: np.ndarray) -> np.ndarray:
    """Assign all kernels anew without each member in turn."""
    unit = unit_bank(start.kernels.reshape(len(start), -1))
    errors = [
        Elimination(kernels, unit[elimination.left[elimination.left != k]]).relative_error
        for k in elimination.left
    ]
    return np.square(errors)
