"""A map of a network's channels: layers as rows, and a line for what passes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import OptionError
from filtersurgeon.graph.channels import ChannelBundle, Channels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROW = 0.19
_LANE = 0.3
_FREE, _PINNED = "#0f7b8a", "#a9a9a9"
_MOST_LAYERS = 600


@dataclass(frozen=True)
class _Line:
    """A bundle on the map: rows from top to bottom, and the lane that it keeps to."""

    bundle: ChannelBundle
    top: int
    bottom: int
    lane: int


def draw_channels(channels: Channels, path: str | Path | None = None) -> Figure:
    """Draw which layers make and read the channels of a network.

    Every layer is a row, in the order of the run. A bundle of channels is a vertical line, the
    wider the more channels it has, from the first layer that touches it to the last: a full dot
    where a layer makes it, a ring where one reads it.

    Args:
        channels: of a network.
        path: where to write it; the ending chooses PNG, SVG or PDF. None writes nothing.

    Raises:
        OptionError: the network has too many layers for a picture.
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> channels = fs.channels(fs.untrained("timm:test_resnet"))
        >>> figure = fs.draw_channels(channels)
    """
    from filtersurgeon.plots.canvas import new_figure, write_figure

    if len(channels.layers) > _MOST_LAYERS:
        raise OptionError(
            f"{len(channels.layers)} layers do not fit into one picture: choose some with `layers`"
        )
    rows = {name: row for row, name in enumerate(channels.layers)}
    lines = _lines(channels.bundles, rows)
    lanes = 1 + max((line.lane for line in lines), default=0)
    names = 0.075 * max(len(name) for name in rows) + 0.3
    width, height = names + _LANE * lanes + 0.8, _ROW * len(rows) + 1.0
    width = max(width, 4.6)
    figure = new_figure(width, height)
    ax = figure.add_axes((names / width, 0.15 / height, 1 - (names + 0.2) / width, 1 - 1 / height))
    ax.set_xlim(-0.7, max(lanes, (width - names - 0.2) / _LANE - 0.7))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.axis("off")
    for name, row in rows.items():
        ax.text(-0.8, row, name, ha="right", va="center", fontsize=7, color="#333333")
        ax.axhline(row, color="#eeeeee", linewidth=0.6, zorder=0)
    for line in lines:
        _draw(ax, line, rows)
    _explain(figure, channels, height)
    return write_figure(figure, path)


def _lines(bundles: Sequence[ChannelBundle], rows: dict[str, int]) -> list[_Line]:
    """Give every bundle the first lane that is empty over all its rows."""
    spans = []
    for bundle in bundles:
        touched = [rows[n] for n in (*bundle.made_by, *bundle.read_by) if n in rows]
        spans.append((min(touched), max(touched), bundle))
    spans.sort(key=lambda span: (span[0], -span[1]))
    lines: list[_Line] = []
    ends: list[int] = []
    for top, bottom, bundle in spans:
        free = (lane for lane, end in enumerate(ends) if end < top)
        lane = next(free, len(ends))
        if lane == len(ends):
            ends.append(bottom)
        ends[lane] = bottom
        lines.append(_Line(bundle, top, bottom, lane))
    return lines


def _draw(ax: Axes, line: _Line, rows: dict[str, int]) -> None:
    bundle = line.bundle
    colour = _FREE if bundle.free else _PINNED
    width = 0.8 + 0.35 * log2(bundle.channels)
    ends = (line.top, line.bottom)
    ax.plot([line.lane] * 2, ends, color=colour, linewidth=width, solid_capstyle="round", zorder=1)
    dots: Any = {"edgecolors": colour, "linewidths": 1.1, "zorder": 2}
    made = [rows[name] for name in bundle.made_by if name in rows]
    read = [rows[name] for name in bundle.read_by if name in rows]
    ax.scatter([line.lane] * len(read), read, s=17, facecolors="white", **dots)
    ax.scatter([line.lane] * len(made), made, s=17, facecolors=colour, **dots)
    ax.text(
        line.lane + 0.2, line.top - 0.02, str(bundle.channels),
        fontsize=5.5, color=colour, va="center",
    )  # fmt: skip


def _explain(figure: Any, channels: Channels, height: float) -> None:
    title = channels.checkpoint.architecture or channels.checkpoint.name
    pinned = sum(bundle.channels for bundle in channels.bundles if not bundle.free)
    figure.text(0.16 / figure.get_figwidth(), 1 - 0.22 / height, title, fontsize=10, va="center")
    figure.text(
        0.16 / figure.get_figwidth(), 1 - 0.45 / height,
        f"{channels.free:,} channels free", fontsize=8, color=_FREE, va="center",
    )  # fmt: skip
    figure.text(
        0.16 / figure.get_figwidth(), 1 - 0.62 / height,
        f"{pinned:,} pinned", fontsize=8, color="#777777", va="center",
    )  # fmt: skip
    figure.text(
        1.75 / figure.get_figwidth(), 1 - 0.45 / height,
        "\u25cf made by the layer   \u25cb read by it", fontsize=8, color="#333333", va="center",
    )  # fmt: skip
