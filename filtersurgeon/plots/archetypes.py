"""Pictures of archetypes: their kernels, the simplex of a layer, filters by l0, and the elbow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import OptionError
from filtersurgeon.plots.canvas import new_figure, write_figure
from filtersurgeon.plots.sheet import Row, draw_sheet, write_sheet
from filtersurgeon.plots.tones import signed
from filtersurgeon.ranking.archetype_models import ArchetypeModels, LayerArchetypes

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

MOST_LAYERS = 16
"""Layers in a picture, spread over those that were analysed."""
_TILE = 72
_COLUMNS = 12
_GREY = 170


def draw_archetypes(
    found: ArchetypeModels, path: str | Path | None = None, *, per_layer: int = 24
) -> Image:
    """Draw the archetypes of each layer, those that most filters use first.

    An archetype of several channels is drawn as its kernels side by side, all in one scale. Below
    stand its main source filter and that filter's weight.

    Args:
        found: from :func:`find_archetypes`.
        path: a PNG file; None writes nothing.
        per_layer: so many of each layer at most.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.find_archetypes(checkpoint, archetypes=4, layers=["conv1.0"])
        >>> sheet = fs.draw_archetypes(found)
    """
    return _sheet([_row_of_archetypes(x, per_layer) for x in _spread(found.layers.values())], path)


def draw_sorted_filters(
    found: ArchetypeModels, path: str | Path | None = None, *, per_layer: int = 24
) -> Image:
    """Draw the filters of each layer, sorted by l0: archetypes first, mixtures of many last.

    Below each filter stand its index and its l0, the number of archetypes that it mixes.

    Args:
        found: from :func:`find_archetypes`.
        path: a PNG file; None writes nothing.
        per_layer: so many of each layer at most, spread evenly over the order.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.find_archetypes(checkpoint, archetypes=4, layers=["conv1.0"])
        >>> sheet = fs.draw_sorted_filters(found)
    """
    return _sheet([_row_of_filters(x, per_layer) for x in _spread(found.layers.values())], path)


def draw_simplex(found: ArchetypeModels, path: str | Path | None = None) -> Figure:
    """Draw the filters of each layer on their first two principal axes, coloured by l0.

    Triangles are the archetypes; the line is the convex hull of their projections.

    Args:
        found: from :func:`find_archetypes`.
        path: PNG, SVG or PDF; None writes nothing.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.find_archetypes(checkpoint, archetypes=4, layers=["conv1.0"])
        >>> figure = fs.draw_simplex(found)
    """
    return _panels(_spread(found.layers.values()), _draw_simplex, path, 3.6)


def draw_elbow(found: ArchetypeModels, path: str | Path | None = None) -> Figure:
    """Draw the relative error of each layer against its number of archetypes, the elbow marked.

    Args:
        found: from :func:`find_archetypes` with ``archetypes='elbow'``, for all layers or some.
        path: PNG, SVG or PDF; None writes nothing.

    Raises:
        CheckpointError: the file cannot be written.
        OptionError: no elbow was looked for.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.find_archetypes(checkpoint, archetypes="elbow", layers=["conv1.0"])
        >>> figure = fs.draw_elbow(found)
    """
    layers = [layer for layer in found.layers.values() if layer.curve is not None]
    if not layers:
        raise OptionError("a picture of the elbow needs `archetypes='elbow'`")
    return _panels(_spread(layers), _draw_curve, path, 2.8)


def _spread(layers: Iterable[LayerArchetypes]) -> list[LayerArchetypes]:
    layers = list(layers)
    places = np.linspace(0, len(layers) - 1, min(len(layers), MOST_LAYERS))
    return [layers[round(place)] for place in places]


def _sheet(rows: Sequence[Row], path: str | Path | None) -> Image:
    if path is not None:
        write_sheet(rows, path, tile=_TILE, columns=_COLUMNS)
    return draw_sheet(rows, tile=_TILE, columns=_COLUMNS)


def _row_of_archetypes(layer: LayerArchetypes, most: int) -> Row:
    model = layer.model
    order = np.argsort(-model.coefficients.sum(axis=1), kind="stable")
    shown, sources = order[:most], layer.sources()
    labels = []
    for number in shown:
        first, weight = next(iter(sources[number].items()))
        labels.append(f"{first}: {weight:.2f}")
    title = (
        f"{layer.name}: {_part(shown, model.n_archetypes)} archetypes of {len(layer.filters)} "
        f"filters, error {model.relative_error:.3f}"
    )
    return Row(title, [_mosaic(model.archetypes[k], layer.shape) for k in shown], labels)


def _row_of_filters(layer: LayerArchetypes, most: int) -> Row:
    l0 = layer.l0
    order = np.lexsort([-layer.model.coefficients.max(axis=0), l0])
    places = np.linspace(0, len(order) - 1, min(most, len(order))).round().astype(int)
    shown = order[places]
    title = f"{layer.name}: {_part(shown, len(order))} filters, l0 from {l0.min()} to {l0.max()}"
    labels = [f"{k}: {l0[k]}" for k in shown]
    return Row(title, [_mosaic(layer.filters[k], layer.shape) for k in shown], labels)


def _part(shown: Sequence[int] | np.ndarray, total: int) -> str:
    return f"{total}" if len(shown) == total else f"{len(shown)} of {total}"


def _mosaic(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Put the kernels of a filter side by side, about as high as wide, with lines between."""
    kernels = values.reshape(shape[1], -1, shape[-1])
    bound = float(np.abs(values).max()) or 1.0
    columns = ceil(len(kernels) ** 0.5)
    rows = ceil(len(kernels) / columns)
    high, wide = kernels.shape[1:]
    # Each weight is a block of pixels, so that the lines are thin beside it.
    block = max(1, _TILE // (rows * high + rows - 1))
    line = 1 if len(kernels) > 1 else 0
    page = np.full(
        (rows * (high * block + line) - line, columns * (wide * block + line) - line, 3),
        255, np.uint8,
    )  # fmt: skip
    for at, kernel in enumerate(kernels):
        top, left = (at // columns) * (high * block + line), (at % columns) * (wide * block + line)
        tile = signed(kernel, bound).repeat(block, 0).repeat(block, 1)
        page[top : top + high * block + line, left : left + wide * block + line] = _GREY
        page[top : top + high * block, left : left + wide * block] = tile
    return page


def _panels(
    layers: Sequence[LayerArchetypes],
    draw: Callable[[Any, LayerArchetypes], None],
    path: str | Path | None,
    height: float,
) -> Figure:
    columns = min(4, len(layers))
    rows = ceil(len(layers) / columns)
    figure = new_figure(3.8 * columns, height * rows)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(layers) :]:
        axes.axis("off")
    for axes, layer in zip(panels, layers, strict=False):
        draw(axes, layer)
        axes.set_title(layer.name, fontsize=9)
        axes.tick_params(labelsize=7)
    return write_figure(figure, path)


def _draw_simplex(axes: Any, layer: LayerArchetypes) -> None:
    X = layer.filters.astype(np.float64)
    mean = X.mean(axis=0)
    _, lengths, directions = np.linalg.svd(X - mean, full_matrices=False)
    energy = float(np.square(lengths).sum()) or 1.0
    main = np.zeros((2, X.shape[1]))
    main[: min(2, len(directions))] = directions[:2]
    # The sign of an axis means nothing; the largest entry is positive on every machine.
    main *= np.where(main[[0, 1], np.abs(main).argmax(axis=1)] < 0, -1.0, 1.0)[:, None]
    points, corners = (X - mean) @ main.T, (layer.model.archetypes - mean) @ main.T
    hull = _hull(corners)
    axes.plot(*corners[hull].T, color="0.6", linewidth=0.8, zorder=1)
    shown = axes.scatter(*points.T, c=layer.l0, s=9, cmap="viridis", linewidths=0, zorder=2)
    axes.scatter(
        *corners.T, marker="^", s=22, facecolors="none", edgecolors="C3", linewidths=0.8, zorder=3
    )
    shares = [np.square(lengths[k]) / energy if k < len(lengths) else 0.0 for k in (0, 1)]
    axes.set_xlabel(f"axis 1: {shares[0]:.0%} of the variance", fontsize=7)
    axes.set_ylabel(f"axis 2: {shares[1]:.0%}", fontsize=7)
    bar = axes.figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02)
    bar.set_label("l0", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    bar.ax.yaxis.get_major_locator().set_params(integer=True)


def _hull(points: np.ndarray) -> np.ndarray:
    """Give the corners of the convex hull in order, the first again at the end."""
    from scipy.spatial import ConvexHull, QhullError

    corners = np.argsort(points[:, 0], kind="stable")
    with suppress(QhullError, ValueError):  # fewer than three, or all on one line
        corners = np.asarray(ConvexHull(points).vertices, np.intp)
    return np.append(corners, corners[:1])


def _draw_curve(axes: Any, layer: LayerArchetypes) -> None:
    assert layer.curve is not None
    curve = layer.curve
    axes.plot(curve.counts, curve.errors, marker="o", markersize=3, linewidth=1.1, color="C0")
    at = curve.counts.index(curve.elbow)
    axes.axvline(curve.elbow, color="C3", linewidth=0.9, linestyle="--")
    axes.plot([curve.elbow], [curve.errors[at]], marker="o", markersize=5, color="C3")
    axes.annotate(
        f"{curve.elbow} archetypes", (curve.elbow, 0.92), xycoords=("data", "axes fraction"),
        xytext=(5, 0), textcoords="offset points", fontsize=8, color="C3",
    )  # fmt: skip
    axes.set_xlabel("archetypes", fontsize=8)
    axes.set_ylabel("relative error", fontsize=8)
    axes.set_ylim(0, 1.05 * max(curve.errors))
    axes.grid(alpha=0.3)
