"""Curves: accuracy against what was done, and the course of a search in a bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filtersurgeon.learn.evaluation import Estimate
from filtersurgeon.plots.canvas import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from filtersurgeon.banks.search import BankSearch


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
        # Student's interval of few runs can leave the range that a share has.
        below = [100 * (point.mean - max(0.0, point.low)) for point in line]
        above = [100 * (min(1.0, point.high) - point.mean) for point in line]
        means = [100 * point.mean for point in line]
        axes.errorbar(
            shifted, means, yerr=[below, above], label=name, marker="o", markersize=4,
            linewidth=1.2, elinewidth=0.9, capsize=2.5,
        )  # fmt: skip
    axes.set(xlabel=xlabel, ylabel="top-1 (%), 95 % interval", xticks=list(places))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def draw_search(found: BankSearch, path: str | Path | None = None) -> Figure:
    """Draw accuracy, or error, against the number of members, with the elbow marked.

    After Fig. 2 of Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.search_bank(
        ...     checkpoint, "dog8", criterion="error", to=6, size=3, all_spatial=True
        ... )
        >>> figure = fs.draw_search(found)
    """
    figure = new_figure(7, 4.2)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    sizes = [step.size for step in found.steps]
    values = [100 * found.value(step) for step in found.steps]
    axes.plot(sizes, values, marker="o", markersize=3.5, linewidth=1.2, color="C0")
    place = sizes.index(found.elbow)
    at, shift = values[place], 6 if place <= len(sizes) / 2 else -6
    axes.axvline(found.elbow, color="C3", linewidth=1, linestyle="--")
    axes.plot([found.elbow], [at], marker="o", markersize=7, color="C3")
    axes.annotate(
        f"elbow: {found.elbow} members, {at:.1f} %", (found.elbow, 0.05),
        xycoords=("data", "axes fraction"), xytext=(shift, 0), textcoords="offset points",
        fontsize=9, color="C3",
        ha="left" if shift > 0 else "right",
    )  # fmt: skip
    if found.original_wrong is not None:
        original = 100 * (1 - found.original_wrong / found.images)
        axes.axhline(original, color="0.5", linewidth=1, linestyle=":")
        axes.annotate(
            f"not replaced: {original:.1f} %", (1, original), xycoords=("axes fraction", "data"),
            xytext=(-4, -11), textcoords="offset points", ha="right", fontsize=8, color="0.35",
        )  # fmt: skip
        axes.set_ylabel(f"top-1 on {found.images:,} images (%)")
        axes.set_ylim(bottom=0)
    else:
        axes.set_ylabel("relative error of the kernels (%)")
    axes.set_xlabel(f"members left of {found.start.name}")
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    return write_figure(figure, path)
