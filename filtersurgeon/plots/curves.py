"""Accuracy against what was done, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from filtersurgeon.learn.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure


def draw_curves(
    figure: Figure | SubFigure,
    places: Sequence[float],
    curves: Mapping[str, Sequence[Estimate]],
    xlabel: str,
) -> None:
    """Draw one line per name, with error bars.

    Args:
        figure: an empty one.
        places: where they are on the horizontal axis.
        curves: name -> an estimate per place.
        xlabel: what the places are.
    """
    axes = figure.subplots()
    width = 0.006 * ((max(places) - min(places)) or 1)
    for number, (name, line) in enumerate(curves.items()):
        # Side by side, so that no bar hides another.
        shifted = [place + width * (number - (len(curves) - 1) / 2) for place in places]
        below = [100 * (point.mean - point.low) for point in line]
        above = [100 * (point.high - point.mean) for point in line]
        means = [100 * point.mean for point in line]
        axes.errorbar(
            shifted, means, yerr=[below, above], label=name, marker="o", markersize=4,
            linewidth=1.2, elinewidth=0.9, capsize=2.5,
        )  # fmt: skip
    axes.set(xlabel=xlabel, ylabel="top-1 (%), 95 % interval", xticks=list(places))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
