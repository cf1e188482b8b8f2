"""Pages of blocks: each row of a contact sheet becomes a block that is about square."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.atomic import write_bytes
from filtersurgeon.plots.sheet import Row, draw_sheet, png_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

_EMPTY = 96
_MANY = 100
"""Pictures in a block, from which on they are drawn at half the size."""


@dataclass(frozen=True)
class _Page:
    """Blocks side by side, line below line.

    Attributes:
        lines: of blocks, by their places.
        width: in pixels.
        height: in pixels.
    """

    lines: Sequence[Sequence[int]]
    width: int
    height: int


def square_columns(count: int) -> int:
    """Give how many pictures side by side make a block of so many about square."""
    return max(1, ceil(sqrt(count)))


def write_blocks(rows: Sequence[Row], path: str | Path, **layout: Any) -> None:
    """Draw rows as blocks into a PNG file; see :func:`draw_blocks`.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_bytes(Path(path), png_bytes(draw_blocks(rows, **layout)))


def draw_blocks(
    rows: Sequence[Row],
    *,
    tile: int | Callable[[Row], int] = 96,
    columns: Callable[[Row], int] | None = None,
    across: int | None = None,
) -> Image:
    """Draw rows as blocks of about equal width and height, on a page that is about square.

    Args:
        rows: what to draw, in reading order; empty rows are left out.
        tile: height of a picture, in pixels, half of it in blocks of a hundred and more; or what
            gives the height of a row's pictures.
        columns: gives the number of pictures side by side in a row's block; None makes every
            block about square.
        across: blocks side by side; None makes the page about square.
    """
    from PIL import Image

    blocks = [
        draw_sheet(
            [row],
            tile=tile(row) if callable(tile) else tile // (2 if len(row.pictures) >= _MANY else 1),
            columns=columns(row) if columns else square_columns(len(row.pictures)),
        )
        for row in rows
        if row.pictures
    ]
    if not blocks:
        return Image.new("RGB", (_EMPTY, _EMPTY), "white")
    sizes = [block.size for block in blocks]
    layout = _lines_of(sizes, across) if across else _squarest(sizes)
    page = Image.new("RGB", (layout.width, layout.height), "white")
    top = 0
    for line in layout.lines:
        left = 0
        for place in line:
            page.paste(blocks[place], (left, top))
            # In a table of blocks, columns stay below each other.
            left += max(width for width, _ in sizes) if across else sizes[place][0]
        top += max(sizes[place][1] for place in line)
    return page


def _lines_of(sizes: Sequence[tuple[int, int]], across: int) -> _Page:
    """Put so many blocks into every line, in columns of one width."""
    places = range(len(sizes))
    lines = [places[start : start + across] for start in range(0, len(sizes), across)]
    width = min(across, len(sizes)) * max(width for width, _ in sizes)
    return _Page(lines, width, sum(max(sizes[i][1] for i in line) for line in lines))


def _squarest(sizes: Sequence[tuple[int, int]]) -> _Page:
    """Break blocks into lines so that the page is as square as can be."""
    widths = [width for width, _ in sizes]
    limits = {sum(widths[a:b]) for a in range(len(widths)) for b in range(a + 1, len(widths) + 1)}
    pages = [_fill(sizes, limit) for limit in sorted(limits) if limit >= max(widths)]
    return min(pages, key=lambda page: abs(log(page.width / page.height)))


def _fill(sizes: Sequence[tuple[int, int]], limit: int) -> _Page:
    """Fill lines of at most so many pixels, in order."""
    lines: list[list[int]] = []
    left = limit + 1
    for place, (width, _) in enumerate(sizes):
        if left + width > limit:
            lines.append([])
            left = 0
        lines[-1].append(place)
        left += width
    used = max(sum(sizes[i][0] for i in line) for line in lines)
    return _Page(lines, used, sum(max(sizes[i][1] for i in line) for line in lines))
