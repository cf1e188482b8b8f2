"""Pictures of kernels: sheets of a bank, and the same kernels before and after an edit."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.banks.bank import FilterBank
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.atomic import check_ending
from filtersurgeon.checkpoint.weight_parts import find_parts, one_tensor
from filtersurgeon.plots.canvas import COLOURS, new_figure, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

MatchedRow = tuple[str, Sequence[np.ndarray | None], Sequence[float | None]]
"""A name, kernels, and a cosine for each of them; None where there is none."""

_LABEL = 24  # characters of a name beside a picture

SUFFIXES = (".png", ".svg", ".pdf")


def check_picture_path(path: str | None, force: bool = False) -> None:
    """Refuse, before any work, a picture that cannot be written.

    Raises:
        OptionError: an ending that is no picture's.
        CheckpointError: the path cannot be written.
    """
    check_ending(path, SUFFIXES, f"pictures end in {', '.join(SUFFIXES)}", force)


def draw_bank(bank: FilterBank, path: str | Path | None = None) -> Figure:
    """Draw every member of a bank with its label.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> bank = fs.load_bank("dog8").at((3, 3))
        >>> figure = fs.draw_bank(bank)
    """
    columns = min(8, len(bank))
    rows = ceil(len(bank) / columns)
    figure = new_figure(1.15 * columns + 0.3, 1.35 * rows + 0.5)
    figure.suptitle(f"{bank.name}, {bank.kernel_size[0]}x{bank.kernel_size[1]}", fontsize=11)
    figure.subplots_adjust(left=0.02, right=0.98, top=1 - 0.6 / (1.35 * rows + 0.5), bottom=0.03)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.axis("off")
    for ax, kernel, label in zip(axes, bank.kernels, bank.labels, strict=False):
        _show(ax, kernel)
        ax.set_title(label, fontsize=8)
    return write_figure(figure, path)


def draw_before_after(
    before: Checkpoint,
    after: Checkpoint,
    path: str | Path | None = None,
    *,
    max_layers: int = 8,
    per_layer: int = 16,
) -> Figure:
    """Draw some kernels of the changed layers, before and after.

    Args:
        before: the original.
        after: the edited checkpoint; its pending changes say which layers to draw.
        path: where to write it; the ending chooses PNG, SVG or PDF. None writes nothing.
        max_layers: so many layers, spread evenly over those that changed.
        per_layer: so many kernels of each, spread evenly.

    Raises:
        CheckpointError: the file cannot be written.

    Examples:
        >>> import filtersurgeon as fs
        >>> before = fs.untrained("timm:test_resnet")
        >>> after = fs.replace(before, bank="dog8", layers=["conv1.0"], all_spatial=True)
        >>> figure = fs.draw_before_after(before, after, per_layer=2)
    """
    parts = find_parts(before.tensors).values()
    whole = {name: each.weight for each in parts for name in each.names.values()}
    changed = dict.fromkeys(whole.get(c.tensor, c.tensor) for c in after.changes)
    tensors = _spread(list(changed), max_layers)
    figure = new_figure(0.5 * per_layer + 1.2, 1.3 * len(tensors) + 0.4)
    rows = figure.subfigures(len(tensors), 1, squeeze=False).ravel()
    for tensor, part in zip(tensors, rows, strict=True):
        part.suptitle(tensor.removesuffix(".weight"), fontsize=8, x=0.01, ha="left", y=0.98)
        _draw_pairs(part, _kernels(before, tensor), _kernels(after, tensor), per_layer)
    return write_figure(figure, path)


def draw_matched(figure: Figure, rows: Sequence[MatchedRow]) -> None:
    """Draw banks below each other, matched members in one column, with their cosines.

    Args:
        figure: an empty one.
        rows: one for each bank, all of the same length.
    """
    columns = len(rows[0][1])
    figure.set_size_inches(0.95 * columns + 1.3, 1.2 * len(rows) + 0.1)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, (name, kernels, cosines) in zip(axes, rows, strict=True):
        label = name if len(name) <= _LABEL else f"{name[: _LABEL - 3]}..."
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
        for ax, kernel, cosine in zip(line, kernels, cosines, strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if kernel is not None:
                _show(ax, kernel - kernel.mean())
            if cosine is not None:
                ax.set_xlabel(f"{cosine:.2f}", fontsize=9, labelpad=2)


def _draw_pairs(part: SubFigure, old: np.ndarray, new: np.ndarray, count: int) -> None:
    axes = part.subplots(2, count, squeeze=False, gridspec_kw={"wspace": 0.1, "hspace": 0.1})
    part.subplots_adjust(left=0.08, right=0.995, top=0.82, bottom=0.02)
    for ax in axes.ravel():
        ax.axis("off")
    for word, ax in zip(("before", "after"), axes[:, 0], strict=True):
        ax.text(-0.25, 0.5, word, transform=ax.transAxes, ha="right", va="center", fontsize=7)
    for column, index in enumerate(_spread(range(len(old)), count)):
        limit = float(np.abs(old[index]).max())
        _show(axes[0, column], old[index], limit)
        _show(axes[1, column], new[index], limit)


def _kernels(checkpoint: Checkpoint, tensor: str) -> np.ndarray:
    values = one_tensor(checkpoint.tensors, tensor).array()
    return values.reshape(-1, *values.shape[2:])


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _show(ax: Any, kernel: np.ndarray, limit: float | None = None) -> None:
    bound = (limit or float(np.abs(kernel).max())) or 1.0
    ax.imshow(kernel, cmap=COLOURS, vmin=-bound, vmax=bound, interpolation="nearest")
