"""What a training run writes: its log, and the state from which it continues bit for bit."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint.atomic import atomic_file, write_bytes
from filtersurgeon.checkpoint.bytesource import open_path
from filtersurgeon.checkpoint.pickled import read_plain
from filtersurgeon.errors import CheckpointError, TrainingError
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe


@dataclass(frozen=True)
class EpochRow:
    """The metrics of one epoch, a line of the log.

    Attributes:
        epoch: counted from 1.
        lr: learning rate at the end of the epoch.
        train_loss: mean over the epoch's steps.
        loss: cross-entropy on the validation images, None without any.
        accuracy: top-1 on the validation images in 0..1, None without any; of images with several
            labels the mean ROC AUC, of masks the mean Dice coefficient.
        metric: which of these it is: ``top-1``, ``mean ROC AUC`` or ``mean Dice``.
    """

    epoch: int
    lr: float
    train_loss: float
    loss: float | None
    accuracy: float | None
    metric: str = "top-1"


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
    metric = rows[-1].metric if rows else "top-1"
    right.set(xlabel="epoch", ylabel=f"validation {metric} (%)")
    left.legend()
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    with atomic_file(path) as file:
        figure.savefig(file, format=path.suffix[1:])


STATE_FILE = "state.pt"
# What may differ between the run and its continuation without changing a bit of the result.
_FREE = frozenset({"device", "workers", "checkpoint_steps", "folder", "resume"})


def signature(recipe: TrainingRecipe, run: RunSettings, n_images: int) -> dict[str, Any]:
    """Give everything that must stay the same for a run to go on."""
    kept = {key: value for key, value in asdict(run).items() if key not in _FREE}
    if not run.compile:
        del kept["compile"]  # which states of earlier versions do not have
    return {**asdict(recipe), **kept, "n_images": n_images}


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state in one step, so that a kill leaves the old or the new one."""
    import torch

    with atomic_file(folder / STATE_FILE) as file:
        torch.save(state, file)


def load_state(folder: Path, expected: dict[str, Any]) -> dict[str, Any]:
    """Read the state of a run that was started with the same settings.

    Raises:
        TrainingError: there is no readable state, or a setting differs (named).
    """
    path = folder / STATE_FILE
    if not path.is_file():
        raise TrainingError(f"{folder}: holds no run to resume")
    try:
        state = read_plain(open_path(path))
    except CheckpointError as problem:
        raise TrainingError(f"{path}: not the state of a training run") from problem
    if not isinstance(state, dict) or not isinstance(state.get("signature"), dict):
        raise TrainingError(f"{path}: not the state of a training run")
    for key, value in expected.items():
        if state["signature"].get(key) != value:
            before = state["signature"].get(key)
            raise TrainingError(f"{folder}: was started with {key} {before!r}, not {value!r}")
    return state
