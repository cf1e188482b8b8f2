"""The elbow of a curve, and the number of archetypes that it chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import numpy as np
from numpy.typing import ArrayLike

from filtersurgeon.archetypes.analysis import archetypal_analysis_batch
from filtersurgeon.archetypes.problem import Options, check_filters

_FINE = 4
"""Numbers up to which each is tried; from there on every number is half as large again."""


@dataclass(frozen=True)
class ErrorCurve:
    """How well some numbers of archetypes model the filters of a layer.

    Attributes:
        counts: numbers of archetypes, ascending.
        errors: the relative error of each.
    """

    counts: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def elbow(self) -> int:
        """The number of archetypes at which the curve turns."""
        return self.counts[elbow(self.errors, self.counts)]


def elbow(values: Sequence[float], places: Sequence[float] | None = None) -> int:
    """Give the position where a curve turns: the one farthest from the line of its ends.

    Args:
        values: the curve's; at least one.
        places: where they are, ascending; None for evenly spaced ones.
    """
    heights = np.asarray(values, np.float64)
    at = np.asarray(range(len(heights)) if places is None else places, np.float64)
    share = (at - at[0]) / ((at[-1] - at[0]) or 1.0)
    line = heights[0] + (heights[-1] - heights[0]) * share
    return int(np.abs(heights - line).argmax())


def tried_counts(largest: int) -> list[int]:
    """List the numbers of archetypes that a curve is made of: 1, 2, 3, 4, 6, 9, 13, and so on."""
    counts = list(range(1, min(_FINE, largest) + 1))
    while counts[-1] < largest:
        counts.append(min(largest, counts[-1] * 3 // 2))
    return counts


def error_curve(filters: ArrayLike, largest: int, **options: Unpack[Options]) -> ErrorCurve:
    """Find archetypes of several numbers, for the elbow of their errors.

    Args:
        filters: one flattened filter per row (N, l).
        largest: the greatest number of archetypes.
        **options: as in `archetypal_analysis`.

    Returns:
        The curve; a number above that of the filters that differ has their error.
    """
    X = check_filters(filters)
    counts = tried_counts(max(1, min(largest, len(X))))
    found = archetypal_analysis_batch([X] * len(counts), counts, **options)
    errors = [each.relative_error for each in found]
    # A start can end in a worse optimum than that of fewer archetypes, which would do as well.
    return ErrorCurve(tuple(counts), tuple(np.minimum.accumulate(errors).tolist()))
