"""Embed a data set: a network's last features in a plane, as a picture and as a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.vision import require
from filtersurgeon.data.data import DataSpec, as_spec, open_data
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.errors import ArchitectureError, DataError, OptionError, near_misses
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.networks import Network, classifier, open_network, running
from filtersurgeon.networks.devices import FittingBatches, find_device, move_like
from filtersurgeon.networks.opened_module import analyses_several
from filtersurgeon.networks.outputs import class_scores
from filtersurgeon.plots.canvas import new_figure, write_figure
from filtersurgeon.plots.page import script_data, write_page
from filtersurgeon.see.gradcam import short_name
from filtersurgeon.see.layers import check_images

if TYPE_CHECKING:
    from torch import nn

METHODS = ("tsne", "pca", "umap")
_SAME = 1e-6
"""Differences that rounding makes, as a share of the largest feature."""
_LARGE = 1e10
_EVALUATION = EvaluationSettings()


@dataclass(frozen=True)
class Cloud:
    """The points of one checkpoint.

    Attributes:
        name: the checkpoint's.
        points: ``(images, 2)``.
        predicted: ``(images,)`` the class that the checkpoint sees.
        dimensions: number of features that were laid out.
        neighbours: share of images whose nearest other point has the same class, 0 to 1.
    """

    name: str
    points: np.ndarray
    predicted: np.ndarray
    dimensions: int
    neighbours: float


@dataclass(frozen=True)
class Embedding:
    """The two-dimensional embedding of a data set by the features of one or more networks.

    Attributes:
        method: ``tsne``, ``pca`` or ``umap``.
        names: of the images.
        labels: ``(images,)`` classes.
        splits: of each image, ``test`` or ``train``.
        clouds: one per checkpoint.
        joint: all checkpoints were laid out together, so that places mean the same; otherwise each
            was laid out for itself and turned to match the first.
    """

    method: str
    names: tuple[str, ...]
    labels: np.ndarray
    splits: tuple[str, ...]
    clouds: tuple[Cloud, ...]
    joint: bool

    def __repr__(self) -> str:
        entries = (
            f"{cloud.name}: {cloud.dimensions} features, points {cloud.points.shape}"
            for cloud in self.clouds
        )
        return summarise(
            self,
            entries,
            method=self.method,
            images=len(self.names),
            networks=len(self.clouds),
            joint=self.joint,
        )

    def to_json(self) -> dict[str, Any]:
        """Give the points in their JSON schema, ``filtersurgeon.embedding/1``."""
        return {
            "schema": "filtersurgeon.embedding/1",
            "method": self.method,
            "joint": self.joint,
            "images": list(self.names),
            "labels": self.labels.tolist(),
            "splits": list(self.splits),
            "checkpoints": [
                {
                    "name": short_name(cloud.name),
                    "dimensions": cloud.dimensions,
                    "neighbours": cloud.neighbours,
                    "points": np.round(cloud.points, 4).tolist(),
                    "predicted": cloud.predicted.tolist(),
                }
                for cloud in self.clouds
            ],
        }


@analyses_several
def embed(
    checkpoints: Sequence[Checkpoint],
    data: Sequence[DataSpec] | DataSpec | str | Any,
    method: str = "tsne",
    settings: EvaluationSettings = _EVALUATION,
    *,
    seed: int = 0,
    perplexity: float = 30.0,
    preprocess: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
) -> Embedding:
    """Embed the features before the classifier in two dimensions (t-SNE, UMAP, PCA).

    Source of the use: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 3.2.

    Args:
        checkpoints: one or more, or modules in memory; all see the images as the first expects
            them.
        data: the images, one entry per split; or images in memory.
        method: ``tsne``, ``pca`` or ``umap``.
        settings: batch size and device.
        seed: of the layout.
        perplexity: of ``tsne``, and the number of neighbours of ``umap``; less where there are
            few images.
        preprocess: values that replace those of the first checkpoint's ``pretrained_cfg``.
        progress: told images done and images in all.
        tell: told what was converted, left out or changed.

    Raises:
        OptionError: an unknown method, or a library that is not installed.
        DataError: fewer than four images, or images that do not fit.
        ArchitectureError: a network without a classifier to take the features of.
        OutputError: it is not clear which output holds the class scores.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
        >>> found = fs.embed([checkpoint], [fs.DataSpec("dashes", subset=8)], "pca")
        >>> found.clouds[0].points.shape, found.labels.shape
        ((8, 2), (8,))
    """
    if method not in METHODS:
        raise OptionError(f"method {method!r} is unknown{near_misses(method, METHODS)}")
    networks = [open_network(checkpoint, preprocess) for checkpoint in checkpoints]
    first = networks[0]
    listed: list[Any] = list(data) if isinstance(data, list | tuple) else [data]
    if not all(isinstance(part, DataSpec | str) for part in listed):
        listed = [data]
    parts = [
        open_data(as_spec(part), first.preprocessing, first.n_classes, labelled=False)
        for part in listed
    ]
    for text in (text for part in parts for text in part.notes) if tell else ():
        tell(text)  # type: ignore[misc]
    count = sum(map(len, parts))
    if count < 4:
        raise DataError(f"a layout needs at least 4 images, not {count}")
    total, done, found = count * len(networks), 0, []
    for network in networks:
        watch = partial(_watch, progress, done, total)
        with running(network.name):
            found.append(features(network, parts, settings, watch))
        done += count
    same = len({values.shape[1] for values, _ in found}) == 1
    labels = np.array([p.source.labels[i] for p in parts for i in p.indices])
    points = _lay_out([values for values, _ in found], method, seed, perplexity, same)
    clouds = tuple(
        Cloud(network.name, place, predicted, values.shape[1], _neighbours(place, labels))
        for network, place, (values, predicted) in zip(networks, points, found, strict=True)
    )
    names = tuple(p.source.name(i) for p in parts for i in p.indices)
    splits = tuple(p.part.split if p.part else "" for p in parts for _ in p.indices)
    return Embedding(method, names, labels, splits, clouds, same)


def _watch(progress: Progress | None, before: int, total: int, done: int) -> None:
    if progress:
        progress(before + done, total)


def features(
    network: Network,
    parts: Sequence[LabelledImages],
    settings: EvaluationSettings,
    watch: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Give what a network's classifier reads, ``(images, dimensions)``, and what it answers."""
    import torch

    model = network.model.to(find_device(settings.device))
    name = classifier(model)[0]
    module: nn.Module = model.get_submodule(name)
    read: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    rows, answers = [], []
    done, fitting = 0, FittingBatches(settings.batch_size)

    def look(images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        read.clear()
        outputs = class_scores(model(move_like(images, model)))
        seen = _last_features(read, len(images), network.name, name)
        return seen, outputs.argmax(1).cpu().numpy()

    try:
        with torch.inference_mode():
            for part in parts:
                for batch, _ in batches(make_loader(part, settings.batch_size, settings.workers)):
                    for (seen, taken), images in fitting.run(look, batch):
                        rows.append(seen)
                        answers.append(taken)
                        done += len(images)
                    if watch:
                        watch(done)
    finally:
        handle.remove()
    return np.concatenate(rows).astype(np.float64), np.concatenate(answers)


def _last_features(read: list[Any], count: int, network: str, layer: str) -> np.ndarray:
    """Take what the classifier read for a batch, ``(images, dimensions)``.

    Raises:
        ArchitectureError: the network does not run it.
        LayerError: it runs on single images.
    """
    if not read:
        raise ArchitectureError(
            f"{network} does not run its classifier {layer}, so there are no features to lay out"
        )
    seen = read.pop()
    read.clear()
    check_images(seen, count, layer)
    # A convolution as classifier reads a map.
    flat: np.ndarray = (seen.mean((2, 3)) if seen.ndim == 4 else seen.flatten(1)).cpu().numpy()
    if not np.isfinite(flat).all():
        raise DataError(f"{network} gives features that are not finite; check its weights")
    return flat


def _lay_out(
    found: Sequence[np.ndarray], method: str, seed: int, perplexity: float, joint: bool
) -> list[np.ndarray]:
    """Lay out all checkpoints together, or each for itself where their features differ."""
    if joint:
        together = project(np.concatenate(found), method, seed, perplexity)
        return np.split(together, len(found))
    alone = [project(values, method, seed, perplexity) for values in found]
    return [alone[0], *(_align(points, alone[0]) for points in alone[1:])]


def project(values: np.ndarray, method: str, seed: int, perplexity: float) -> np.ndarray:
    """Project points to the plane.

    Args:
        values: ``(points, dimensions)``, at least four.
        method: ``tsne``, ``pca`` or ``umap``.
        seed: of the layout.
        perplexity: of ``tsne``, and the number of neighbours of ``umap``; at most a third of the
            points.

    Returns:
        ``(points, 2)``.

    Raises:
        OptionError: the library of the method is not installed.
        DataError: all points are the same, with which t-SNE would end the process.
    """
    largest = np.abs(values).max(initial=0)
    if np.abs(values - values[:1]).max(initial=0) <= _SAME * largest:
        raise DataError(
            f"all {len(values)} have the same features, so there is nothing to lay out; "
            "check the network and its input"
        )
    if not 1 / _LARGE < largest < _LARGE:  # squares would not fit into float32
        values = values / largest
    near = min(perplexity, (len(values) - 1) / 3)
    if method == "umap":
        umap = require("umap", "see")
        reducer = umap.UMAP(n_neighbors=max(2, round(near)), random_state=seed, n_jobs=1)
        return np.asarray(reducer.fit_transform(values), np.float64)
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if method == "pca":
        points: np.ndarray = PCA(2, random_state=seed).fit_transform(values)
        return points
    tsne = TSNE(2, perplexity=near, init="pca", random_state=seed, n_jobs=1)
    return np.asarray(tsne.fit_transform(values.astype(np.float32)), np.float64)


def _align(points: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Turn and scale points so that they come closest to others (orthogonal Procrustes)."""
    from scipy.linalg import orthogonal_procrustes

    own, other = (x - x.mean(0) for x in (points, reference))
    turn, scale = orthogonal_procrustes(own, other)
    return np.asarray(own @ turn * (scale / np.square(own).sum()) + reference.mean(0))


def _neighbours(points: np.ndarray, labels: np.ndarray) -> float:
    """Give the share of points whose nearest other point has the same class."""
    from scipy.spatial import KDTree

    nearest = np.asarray(KDTree(points).query(points, k=2)[1])[:, 1]
    return float((labels[nearest] == labels).mean())


def both_splits(data: DataSpec, split: str | None) -> list[DataSpec]:
    """Give one entry per split; ``both`` stands for train and test."""
    return [
        replace(data, split=name) for name in (("train", "test") if split == "both" else (split,))
    ]


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
