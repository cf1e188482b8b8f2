"""An embedding as a picture, and as a page to move about in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from filtersurgeon.plots.canvas import new_figure, write_figure
from filtersurgeon.plots.page import script_data, write_page
from filtersurgeon.see.embedding import Cloud, Embedding
from filtersurgeon.see.gradcam import short_name

TITLES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}


def colours(labels: np.ndarray) -> dict[str, str]:
    """Give every class a colour, as different as their number allows."""
    import matplotlib
    from matplotlib.colors import to_hex

    classes = sorted({int(label) for label in labels})
    if len(classes) <= 10:
        table = [to_hex(c) for c in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]
    else:
        spread = np.linspace(0, 1, len(classes), endpoint=False)
        table = [to_hex(matplotlib.colormaps["hsv"](x)) for x in spread]
    return {str(label): table[k] for k, label in enumerate(classes)}


def draw_embedding(found: Embedding, path: str | Path) -> None:
    """Draw a panel per checkpoint: filled points are test images, rings training images.

    Raises:
        CheckpointError: the file cannot be written.
    """
    known = colours(found.labels)
    figure = new_figure(4.6 * len(found.clouds) + 0.9, 4.7)
    figure.set_layout_engine("constrained")
    panels = figure.subplots(1, len(found.clouds), squeeze=False)[0]
    shade = np.array([known[str(int(label))] for label in found.labels])
    train = np.array([split == "train" for split in found.splits])
    for axes, cloud in zip(panels, found.clouds, strict=True):
        axes.scatter(*cloud.points[~train].T, s=9, c=shade[~train], linewidths=0, alpha=0.85)
        axes.scatter(
            *cloud.points[train].T, s=9, facecolors="none", edgecolors=shade[train], linewidths=0.6
        )
        share = f"{100 * cloud.neighbours:.1f} % have a neighbour of their class"
        axes.set_title(f"{short_name(cloud.name)}\n{share}", fontsize=9)
        middle, reach = _window(found.clouds if found.joint else [cloud])
        axes.set_xlim(middle[0] - reach, middle[0] + reach)
        axes.set_ylim(middle[1] - reach, middle[1] + reach)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
    if len(known) <= 20:
        from matplotlib.lines import Line2D

        marks = [
            Line2D([], [], marker="o", linestyle="", color=colour, label=label, markersize=4)
            for label, colour in known.items()
        ]
        figure.legend(handles=marks, loc="outside right center", fontsize=8, title="class")
    write_figure(figure, path)


def _window(clouds: Sequence[Cloud]) -> tuple[np.ndarray, float]:
    """Give the middle, and half the side, of a square that holds all points."""
    points = np.concatenate([cloud.points for cloud in clouds])
    low, high = points.min(0), points.max(0)
    return (low + high) / 2, 0.53 * (float((high - low).max()) or 1.0)


def write_embedding(found: Embedding, path: str | Path) -> None:
    """Write a page that works without a network connection.

    Raises:
        CheckpointError: the file cannot be written.
    """
    together = "laid out together" if found.joint else "laid out one by one and turned to match"
    several = f", {len(found.clouds)} checkpoints {together}" if len(found.clouds) > 1 else ""
    write_page(
        "embedding.html",
        path,
        title=f"{TITLES[found.method]} of {', '.join(short_name(c.name) for c in found.clouds)}",
        summary=f"{len(found.labels):,} images, features before the classifier{several}.",
        data=script_data({**found.to_json(), "colours": colours(found.labels)}),
    )
