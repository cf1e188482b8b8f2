"""Means over repeats, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from filtersurgeon.learn.evaluation import Evaluation, wilson_interval


class Estimate(NamedTuple):
    """A mean and its 95 % interval, as shares (0.9 is 90 %)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Give percent: the mean, then how far the farther end of the interval is from it."""
        half = max(self.high - self.mean, self.mean - self.low)
        return f"{100 * self.mean:.1f} ±{100 * half:.1f}"


def student_interval(values: Sequence[float]) -> Estimate:
    """Give the mean of independent values and Student's 95 % interval; a point for one value."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, mean, mean)
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return Estimate(mean, mean - half, mean + half)


def mean_accuracy(repeats: Sequence[Evaluation]) -> Estimate:
    """Give the mean top-1 accuracy of repeats.

    The interval is the wider of Student's over the repeats, which may all be the same, and
    Wilson's for the images of one repeat.
    """
    over = student_interval([found.accuracy for found in repeats])
    images = repeats[0].n_images
    low, high = wilson_interval(round(over.mean * images), images)
    if over.high - over.low > high - low:
        return Estimate(over.mean, max(0.0, over.low), min(1.0, over.high))
    return Estimate(over.mean, min(low, over.mean), max(high, over.mean))


def mean_difference(first: Sequence[Evaluation], second: Sequence[Evaluation]) -> Estimate:
    """Give the mean of the first accuracy minus the second, paired by repeat.

    The interval is Student's over the repeats, or, where that is narrower, the normal one for
    two independent proportions on the images of one repeat, which is too wide for images in
    common.
    """
    pairs = list(zip(first, second, strict=True))
    over = student_interval([a.accuracy - b.accuracy for a, b in pairs])
    shares = [np.mean([found.accuracy for found in side]) for side in (first, second)]
    spread = sum(p * (1 - p) for p in shares) / first[0].n_images
    half = max(1.959963984540054 * float(spread) ** 0.5, over.high - over.mean)
    return Estimate(over.mean, over.mean - half, over.mean + half)
