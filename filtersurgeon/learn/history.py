"""The log of a training run: rows, a CSV file, a plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filtersurgeon.checkpoint.atomic import atomic_file, write_bytes


@dataclass(frozen=True)
class EpochRow:
    """One line of the log.

    Attributes:
        epoch: counted from 1.
        lr: learning rate at the end of the epoch.
        train_loss: mean over the epoch's steps.
        loss: cross-entropy on the validation images, None without any.
        accuracy: top-1 on the validation images in 0..1, None without any.
    """

    epoch: int
    lr: float
    train_loss: float
    loss: float | None
    accuracy: float | None


def write_csv(rows: Sequence[EpochRow], path: Path) -> None:
    """Write the whole log, replacing an older one at once."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [column.name for column in fields(EpochRow)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_bytes(path, text.getvalue().encode())


def plot_history(rows: Sequence[EpochRow], path: Path) -> None:
    """Draw losses and validation accuracy over epochs.

    Args:
        rows: the log.
        path: where to; the suffix chooses the format (``.png``, ``.svg``, ``.pdf``).
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [row.epoch for row in rows]
    left.plot(epochs, [row.train_loss for row in rows], ".-", label="training")
    left.set(xlabel="epoch", ylabel="loss (nats)")
    if rows and rows[-1].accuracy is not None:
        left.plot(epochs, [row.loss for row in rows], ".-", label="validation")
        right.plot(epochs, [100 * (row.accuracy or 0.0) for row in rows], ".-", color="tab:green")
    right.set(xlabel="epoch", ylabel="validation top-1 (%)")
    left.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:])
