"""ExplainSteer's pictures: the heat map of a network's layers, and sheets of basis filters.

In the heat map, layers go across, and basis filters from low to high frequency down.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.plots.canvas import COLOURS, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

    from filtersurgeon.explain.basis import Basis
    from filtersurgeon.explain.explanation import Explanation
    from filtersurgeon.explain.spectrum import Spectrum

SCALES = ("energy", "share")
SHADES = "viridis"
SIZE_COLOURS = ("#3b6ea5", "#c8691c", "#4b8b3b", "#8a5a9e")
MAX_NAMES = 64  # more would overlap
_BESIDE = 70  # layers; more are drawn one network above the other

# Inches.
_COLUMN, _NARROWEST, _WIDEST = 0.17, 3.6, 20.0
_SUMS, _MAP, _GAP, _TITLE = 0.75, 2.9, 0.06, 0.42
_LETTER = 0.058  # of a layer's name
_FILTER, _ROW_SUMS, _SCALE = 0.3, 0.6, 0.85


def draw_explanation(
    explanations: Sequence[Explanation],
    path: str | Path | None = None,
    *,
    scale: str = "energy",
) -> Figure:
    """Draw the spectra of one network, or of several on one scale of colours.

    Columns are layers, rows basis filters; bars sum the energy over each. Layers of different
    kernel sizes share the picture: every column is as high, divided into as many cells as its
    kernels have basis filters.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Fig. 12.

    Args:
        explanations: of at least one network.
        path: where to write it; the ending chooses PNG, SVG or PDF. None writes nothing.
        scale: ``energy`` colours by ``e2`` itself; ``share`` by each basis filter's part of its
            layer's energy, times the number of basis filters: 1 is a flat spectrum.

    Raises:
        OptionError: no such scale.
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> explanation = fs.explain(fs.untrained("timm:test_resnet"))
        >>> figure = fs.draw_explanation([explanation], scale="share")
    """
    check_scale(scale)
    parts, bottom = _canvas(explanations)
    greatest = max(_cells(layer, scale).max() for x in explanations for layer in x.layers) or 1.0
    for part, explanation in zip(parts, explanations, strict=True):
        _draw(part, explanation, bottom, scale, greatest)
    return write_figure(parts[0].figure, path)


def check_scale(scale: str) -> None:
    """Refuse an unknown scale; raises OptionError."""
    if scale not in SCALES:
        raise OptionError(f"no scale called {scale!r}{near_misses(scale, SCALES)}")


def _canvas(explanations: Sequence[Explanation]) -> tuple[list[SubFigure], float]:
    """Make a part of one figure per network; also give the space for the layers' names."""
    beside = sum(len(x.layers) for x in explanations) <= _BESIDE
    widths = [_map_width(x) + sum(_margins(x)) for x in explanations]
    bottom = 0.12 + _LETTER * max(len(layer.name) for x in explanations for layer in x.layers)
    height = _TITLE + _SUMS + _GAP + _MAP + bottom
    if beside:
        figure = new_figure(sum(widths), height)
        parts = figure.subfigures(1, len(widths), squeeze=False, width_ratios=widths)
    else:
        figure = new_figure(max(widths), height * len(widths))
        parts = figure.subfigures(len(widths), 1, squeeze=False)
    return list(parts.ravel()), bottom


def _map_width(explanation: Explanation) -> float:
    return min(_WIDEST, max(_NARROWEST, _COLUMN * len(explanation.layers)))


def _strips(explanation: Explanation) -> list[float]:
    """Give the width of the drawn basis filters of each kernel size, about square in their rows."""
    return [min(_FILTER, _MAP / len(x.e2)) for x in explanation.network]


def _margins(explanation: Explanation) -> tuple[float, float]:
    sizes = len(explanation.network)
    left = 0.42 + sum(_strips(explanation)) + 0.16 * sizes
    return left, (_ROW_SUMS + _GAP) * sizes + _SCALE


def _cells(layer: Spectrum, scale: str) -> np.ndarray:
    if scale == "energy":
        return layer.e2
    return layer.e2 * len(layer.e2) / (layer.energy or 1.0)


def _draw(
    part: SubFigure, explanation: Explanation, bottom: float, scale: str, greatest: float
) -> None:
    bases = {spectrum.basis.size: spectrum.basis for spectrum in explanation.network}
    colours = dict(zip(bases, SIZE_COLOURS * len(bases), strict=False))
    left, right = _margins(explanation)
    # What is left of the width is the map's, should another network have made the part wider.
    page, height = part.bbox.width / part.figure.dpi, part.bbox.height / part.figure.dpi
    width = page - left - right

    def place(x: float, y: float, w: float, h: float) -> Any:
        return part.add_axes((x / page, y / height, w / page, h / height))

    main = place(left, bottom, width, _MAP)
    image = _draw_cells(main, explanation.layers, scale, greatest)
    _name_layers(main, explanation.layers, colours)
    _draw_layer_sums(place(left, bottom + _MAP + _GAP, width, _SUMS), explanation, colours)
    x, after = 0.26, left + width + _GAP
    for strip, (size, basis) in zip(_strips(explanation), bases.items(), strict=True):
        _draw_filters(place(x, bottom, strip, _MAP), basis, colours[size])
        same = [layer for layer in explanation.layers if layer.basis.size == size]
        _draw_row_sums(place(after, bottom, _ROW_SUMS, _MAP), same, colours[size])
        x, after = x + strip + 0.16, after + _ROW_SUMS + _GAP
    _draw_scale(place(after + 0.12, bottom, 0.1, 0.85 * _MAP), image, scale)
    part.text(0.2 / page, (bottom + _MAP) / height, "low", **_WORD)
    part.text(0.2 / page, bottom / height, "high", **(_WORD | {"va": "bottom"}))
    part.text(left / page, 1 - 0.16 / height, _title(explanation), fontsize=9, va="center")


_WORD: dict[str, Any] = {"fontsize": 7, "rotation": 90, "ha": "right", "va": "top"}


def _draw_scale(ax: Any, image: Any, scale: str) -> None:
    ax.figure.colorbar(image, cax=ax).ax.tick_params(labelsize=6, length=2)
    words = "energy" if scale == "energy" else "share,\nflat = 1"
    ax.set_title(words, fontsize=7, loc="left", pad=4)


def _title(explanation: Explanation) -> str:
    weights = "uniform kernel weights" if explanation.weights == "uniform" else explanation.weights
    return f"{Path(explanation.name).stem}: {explanation.basis.upper()}, {weights}"


def _draw_cells(ax: Any, layers: Sequence[Spectrum], scale: str, greatest: float) -> Any:
    from matplotlib.colors import PowerNorm

    # The square root shows weak layers beside strong ones.
    norm = PowerNorm(0.5, vmin=0.0, vmax=greatest)
    mesh = None
    for column, layer in enumerate(layers):
        cells = _cells(layer, scale)[:, None]
        edges = np.linspace(0, 1, len(cells) + 1)
        mesh = ax.pcolormesh([column, column + 1], edges, cells, cmap=SHADES, norm=norm)
    ax.set(xlim=(0, len(layers)), ylim=(1, 0), yticks=[])
    return mesh


def _name_layers(ax: Any, layers: Sequence[Spectrum], colours: dict[Any, str]) -> None:
    step = -(-len(layers) // MAX_NAMES)
    shown = range(0, len(layers), step)
    labels = [layers[at].name for at in shown]
    ax.set_xticks([at + 0.5 for at in shown], labels, rotation=90, fontsize=6)
    ax.tick_params(axis="x", length=2, pad=1)
    for at, text in zip(shown, ax.get_xticklabels(), strict=True):
        text.set_color(colours[layers[at].basis.size] if len(colours) > 1 else "black")


def _draw_layer_sums(ax: Any, explanation: Explanation, colours: dict[Any, str]) -> None:
    layers = explanation.layers
    shades = [colours[layer.basis.size] for layer in layers]
    places = [at + 0.5 for at in range(len(layers))]
    ax.bar(places, [layer.energy for layer in layers], width=0.8, color=shades)
    ax.set(xlim=(0, len(layers)), xticks=[])
    _quiet(ax)
    ax.tick_params(axis="y", labelsize=6, length=2)
    ax.locator_params(axis="y", nbins=3)
    ax.set_ylabel("sum", fontsize=7)


def _draw_row_sums(ax: Any, layers: Sequence[Spectrum], colour: str) -> None:
    sums = np.sum([layer.e2 for layer in layers], axis=0)
    m = len(sums)
    ax.barh((np.arange(m) + 0.5) / m, sums, height=0.8 / m, color=colour)
    ax.set(ylim=(1, 0), xlim=(0, None), yticks=[], xticks=[])
    _quiet(ax)
    ax.spines["bottom"].set_visible(False)


def _draw_filters(ax: Any, basis: Basis, colour: str) -> None:
    """Draw the basis filters of one kernel size, each beside its row."""
    height, width = basis.size
    m = len(basis.vectors)
    for row, vector in enumerate(basis.vectors):
        limit = np.abs(vector).max()
        ax.imshow(
            vector.reshape(height, width), cmap=COLOURS, vmin=-limit, vmax=limit,
            extent=(0.08, 0.92, (row + 0.95) / m, (row + 0.05) / m), aspect="auto",
            interpolation="nearest",
        )  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    ax.set_title(f"{height}x{width}", fontsize=7, color=colour, pad=3)
    for side in ax.spines.values():
        side.set_visible(False)


def _quiet(ax: Any) -> None:
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


_CELL = 0.62  # inches


def draw_basis(basis: Basis, path: str | Path | None = None) -> Figure:
    """Draw every filter of a basis with its number in the order of heat maps.

    Filters of a separable basis lie where their vertical vector (left) and their horizontal one
    (above) cross.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, Fig. F.1.

    Args:
        basis: what to draw.
        path: where to write it; the ending chooses PNG, SVG or PDF. None writes nothing.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> figure = fs.draw_basis(fs.find_basis("dct", (3, 3)))
    """
    height, width = basis.size
    if basis.parts is None:
        columns = min(8, len(basis.vectors))
        places = [divmod(at, columns) for at in range(len(basis.vectors))]
        rows = ceil(len(places) / columns)
    else:
        rows, columns = height + 1, width + 1
        places = [(u + 1, v + 1) for u, v in basis.parts]
    figure = new_figure(_CELL * columns + 0.2, _CELL * 1.18 * rows + 0.45)
    figure.suptitle(f"{basis.name.upper()} basis, {height}x{width}", fontsize=9)
    bounds = {"left": 0.03, "right": 0.97, "bottom": 0.02, "wspace": 0.14, "hspace": 0.36}
    top = 1 - 0.5 / (_CELL * 1.18 * rows + 0.45)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**bounds, "top": top})
    for ax in axes.ravel():
        ax.axis("off")
    limit = np.abs(basis.vectors).max()
    for at, (place, vector) in enumerate(zip(places, basis.vectors, strict=True)):
        _show(axes[place], vector.reshape(height, width), limit)
        axes[place].set_title(str(at), fontsize=7, pad=2)
    if basis.parts is not None:
        _draw_parts(axes, basis)
    return write_figure(figure, path)


def _draw_parts(axes: np.ndarray, basis: Basis) -> None:
    """Draw the 1-D vectors, which constant filters show by themselves."""
    assert basis.parts is not None
    kernels = basis.vectors.reshape(-1, *basis.size)
    for (u, v), kernel in zip(basis.parts, kernels, strict=True):
        if v == 0:
            _show(axes[u + 1, 0], kernel[:, :1], np.abs(kernel).max())
        if u == 0:
            _show(axes[0, v + 1], kernel[:1], np.abs(kernel).max())


def _show(ax: Any, values: np.ndarray, limit: float) -> None:
    ax.imshow(values, cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest")
