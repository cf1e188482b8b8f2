"""A plan of a cut: widths before and after, and what every cut costs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.plots.canvas import new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
    from filtersurgeon.pruning.report import PruneReport

_ROW = 0.22
_MOST = 60


def draw_plan(plan: CutPlan, path: str | Path | None = None) -> Figure:
    """Draw a plan: widths before and after, and the loss of every cut.

    Left, how many groups of channels each bundle has, and how many it keeps; right, the loss of
    every cut against the operations that it saves, with what was measured as points and the chosen
    widths as rings.

    Args:
        plan: as ``PruneReport.plan`` holds it.
        path: where to write it; the ending chooses PNG, SVG or PDF. None writes nothing.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)
        >>> done = []
        >>> with TemporaryDirectory() as folder:
        ...     np.savez(Path(folder, "some.npz"), x=pixels)
        ...     checkpoint = fs.prune(
        ...         fs.untrained("timm:test_resnet"), target="macs=0.7x",
        ...         data=str(Path(folder, "some.npz")), observe=done.append,
        ...     )
        >>> figure = fs.draw_plan(done[0].plan)
    """
    names = list(plan.bundles)[:_MOST]
    curved = any(plan.bundles[name].curve for name in names)
    figure = new_figure(11 if curved else 6.5, max(3.2, 1.2 + _ROW * len(names)))
    figure.set_layout_engine("constrained")
    left, *right = figure.subplots(1, 2 if curved else 1, squeeze=False)[0]
    _draw_widths(left, plan, names)
    if right:
        _draw_losses(right[0], plan, names)
    return write_figure(figure, path)


def _draw_widths(axes: Axes, plan: CutPlan, names: list[str]) -> None:
    rows = np.arange(len(names))
    before = [plan.bundles[name].width for name in names]
    after = [plan.bundles[name].keep for name in names]
    axes.barh(rows, before, color="0.85", label="before")
    axes.barh(rows, after, color="C0", label="kept")
    for row, (was, now) in enumerate(zip(before, after, strict=True)):
        axes.annotate(
            f"{now}/{was}", (was, row), xytext=(3, 0), textcoords="offset points", fontsize=6.5,
            va="center", color="0.3",
        )  # fmt: skip
    axes.set_yticks(rows, names, fontsize=7)
    axes.set_xlim(0, 1.14 * max(before))
    axes.set_xlabel("groups of channels")
    axes.invert_yaxis()
    more = len(plan.bundles) - len(names)
    title = f"widths for {plan.target}" if plan.target else "widths"
    axes.set_title(title + (f" ({more} more not shown)" if more else ""), fontsize=9)
    axes.legend(fontsize=7, loc="upper right")


def _draw_losses(axes: Axes, plan: CutPlan, names: list[str]) -> None:
    import matplotlib
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, max(len(names), 2)))
    for name, colour in zip(names, colours, strict=False):
        bundle = plan.bundles[name]
        if not bundle.curve:
            continue
        saved = bundle.macs * np.arange(len(bundle.curve)) / 1e6
        axes.plot(saved[1:], bundle.curve[1:], color=colour, linewidth=0.8, alpha=0.8)
        for kept, loss in bundle.losses:
            gone = bundle.width - kept
            axes.plot(bundle.macs * gone / 1e6, max(loss, 1e-7), ".", color=colour, markersize=4)
        gone = bundle.width - bundle.keep
        if 0 < gone < len(bundle.curve):
            axes.plot(saved[gone], bundle.curve[gone], "o", mfc="none", color="C3", markersize=6)
    axes.set_yscale("log")
    axes.set_xscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=1e-6)
    axes.set_xlabel("operations saved (millions of MACs)")
    axes.set_ylabel("loss on held-out images")
    axes.set_title("each bundle cut by itself; rings: chosen; colours: first to last", fontsize=9)
    axes.grid(alpha=0.3)


def draw_frontier(reports: Sequence[PruneReport], path: str | Path | None = None) -> Figure:
    """Draw what several cuts of one network keep against the operations that are left.

    Args:
        reports: of the cuts, as :func:`prune_sweep` yields them.
        path: where to write it; the ending chooses PNG, SVG or PDF. None writes nothing.

    Raises:
        CheckpointError: the file cannot be written.
    """
    figure = new_figure(6, 4)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    known = [x for x in reports if x.worth is not None and x.worth.agreement is not None]
    places = [100 * x.after.macs / x.before.macs for x in known]
    kept = [100 * (x.worth.agreement or 0.0) for x in known if x.worth]
    axes.plot([100, *places], [100, *kept], marker="o", color="C0", label="same class as before")
    told = [(place, x.worth.top1) for place, x in zip(places, known, strict=True) if x.worth]
    accuracies = [(place, top1) for place, top1 in told if top1 is not None]
    if accuracies:
        first = accuracies[0][1][0]
        axes.plot(
            [100, *(place for place, _ in accuracies)],
            [100 * first, *(100 * top1[1] for _, top1 in accuracies)],
            marker="s", color="C1", label="top-1",
        )  # fmt: skip
    axes.axhline(90, color="0.6", linewidth=0.8, linestyle="--")
    axes.invert_xaxis()
    axes.set_xlabel("operations left (% of MACs)")
    images = known[0].worth.images if known and known[0].worth else 0
    axes.set_ylabel(f"% of {images} held-out images")
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower left")
    return write_figure(figure, path)
