"""What every picture is drawn on, and how it becomes a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = "RdBu_r"
"""Of kernels: blue negative, white zero, red positive."""


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=150, facecolor="white")


def write_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically and without the date and the random names that drawings carry."""
    import matplotlib

    kind = Path(path).suffix[1:]
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {"Software": None})
    with atomic_file(Path(path)) as file, matplotlib.rc_context({"svg.hashsalt": "filtersurgeon"}):
        figure.savefig(file, format=kind, metadata=metadata)
