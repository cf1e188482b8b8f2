"""The state of a training run on disk, from which it goes on bit for bit."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint.atomic import atomic_file
from filtersurgeon.checkpoint.bytesource import open_path
from filtersurgeon.checkpoint.pickled import unpickle
from filtersurgeon.errors import CheckpointError, TrainingError
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe

STATE_FILE = "state.pt"
# What may differ between the run and its continuation without changing a bit of the result.
_FREE = frozenset({"device", "workers", "checkpoint_steps", "folder", "resume"})


def signature(recipe: TrainingRecipe, run: RunSettings, n_images: int) -> dict[str, Any]:
    """Give everything that must stay the same for a run to go on."""
    kept = {key: value for key, value in asdict(run).items() if key not in _FREE}
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
        state = unpickle(open_path(path))
    except CheckpointError as problem:
        raise TrainingError(f"{path}: not the state of a training run") from problem
    if not isinstance(state, dict) or not isinstance(state.get("signature"), dict):
        raise TrainingError(f"{path}: not the state of a training run")
    for key, value in expected.items():
        if state["signature"].get(key) != value:
            before = state["signature"].get(key)
            raise TrainingError(f"{folder}: was started with {key} {before!r}, not {value!r}")
    return state
