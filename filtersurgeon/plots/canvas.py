"""Figures that plots are drawn on, and how they are written to files."""

from __future__ import annotations

import warnings
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.atomic import atomic_file
from filtersurgeon.errors import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

COLOURS = "RdBu_r"
"""Of kernels: blue negative, white zero, red positive."""


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of so many inches, which notebooks show."""
    return _drawing()(figsize=(width, height), dpi=150, facecolor="white")


@cache
def _drawing() -> type[Figure]:
    from matplotlib.figure import Figure

    class Drawing(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            file = BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Drawing


def write_figure(figure: Figure, path: str | Path | None = None) -> Figure:
    """Write a figure atomically and without the date and the random names that drawings carry.

    Args:
        figure: what to write.
        path: where to; the ending chooses PNG, SVG or PDF. None writes nothing.

    Returns:
        The figure.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        _take_literally(text)
    if path is None:
        return figure
    kind = Path(path).suffix[1:]
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {"Software": None})
    with (
        atomic_file(Path(path)) as file,
        matplotlib.rc_context({"svg.hashsalt": "filtersurgeon"}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that the font lacks
        figure.savefig(file, format=kind, metadata=metadata)
    return figure


def _take_literally(text: Text) -> None:
    """Let names from files be names: no formulas, and nothing that no font can draw."""
    words = text.get_text()
    if "\\mathdefault" not in words:  # the ticks of logarithmic axes
        text.set_parse_math(False)
        text.set_text("\n".join(printable(line) for line in words.split("\n")))
