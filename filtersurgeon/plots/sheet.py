"""Contact sheets: many small pictures with labels on one page, drawn pixel by pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint.atomic import check_ending, write_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

_GAP, _MARGIN, _SIZE, _SMALL = 6, 16, 15, 12
_INK, _GREY = (25, 25, 25), (110, 110, 110)
_LEADING, _LINES = 14, 3
"""Height of a line of a label, in pixels, and how many lines a label has at most."""


@dataclass(frozen=True)
class Row:
    """Some pictures under one title.

    Attributes:
        title: above them.
        pictures: ``(height, width, 3)`` uint8 each.
        labels: below each of them; empty for none.
    """

    title: str
    pictures: Sequence[np.ndarray]
    labels: Sequence[str] = field(default_factory=tuple)


def check_sheet_path(path: str | None, force: bool = False) -> None:
    """Refuse, before any work, a sheet that cannot be written.

    Raises:
        OptionError: it does not end in .png.
        CheckpointError: the path cannot be written.
    """
    check_ending(path, (".png",), "this picture is made of pixels; end its name in .png", force)


def write_sheet(rows: Sequence[Row], path: str | Path, **layout: Any) -> None:
    """Draw rows of pictures into a PNG file; see :func:`draw_sheet`.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_bytes(Path(path), png_bytes(draw_sheet(rows, **layout)))


def png_bytes(image: Image) -> bytes:
    """Encode a picture as PNG."""
    buffer = BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def draw_sheet(rows: Sequence[Row], *, tile: int = 96, columns: int | None = None) -> Image:
    """Draw rows of pictures, each picture enlarged or reduced to the same height.

    Args:
        rows: what to draw; a row with more than ``columns`` pictures goes on below.
        tile: height of a picture, in pixels.
        columns: pictures side by side; None puts as many as make a page of usual shape.
    """
    from PIL import Image, ImageDraw

    longest = max((len(row.pictures) for row in rows), default=1)
    columns = columns or (max(1, longest) if longest <= 16 else 12)
    lines = [line for row in rows for line in _lines(row, columns)]
    scaled = [[_fit(picture, tile) for picture in line.pictures] for line in lines]
    cell = max((x.width for line in scaled for x in line), default=tile)
    titles = [_length(line.title, _SIZE) for line in lines]
    width = 2 * _MARGIN + max([columns * (cell + _GAP) - _GAP, *titles])
    labels = [[_broken(label, cell) for label in line.labels] for line in lines]
    heights = [
        _height(line, tile, max(map(len, own), default=0))
        for line, own in zip(lines, labels, strict=True)
    ]
    page = Image.new("RGB", (int(width), int(sum(heights)) + 2 * _MARGIN - _GAP), "white")
    draw, top = ImageDraw.Draw(page), _MARGIN
    for line, pictures, texts, height in zip(lines, scaled, labels, heights, strict=True):
        below = top
        if line.title:
            draw.text((_MARGIN, top), line.title, _INK, _font(_SIZE))
            below += _SIZE + 8
        for place, picture in enumerate(pictures):
            left = _MARGIN + place * (cell + _GAP)
            page.paste(picture, (left + (cell - picture.width) // 2, below))
            for number, text in enumerate(texts[place] if texts else ()):
                middle = left + (cell - _length(text, _SMALL)) / 2
                down = below + tile + 2 + number * _LEADING
                draw.text((middle, down), text, _GREY, _font(_SMALL))
        top += height
    return page


def _lines(row: Row, columns: int) -> list[Row]:
    """Break a row into lines; the title stands above the first."""
    return [
        Row(
            "" if start else row.title,
            row.pictures[start : start + columns],
            row.labels[start : start + columns],
        )
        for start in range(0, max(1, len(row.pictures)), columns)
    ]


def _height(line: Row, tile: int, texts: int) -> int:
    """Give the height of a line of pictures whose labels have so many lines at most."""
    title = _SIZE + 8 if line.title else 0
    return title + tile + (_SMALL + 6 + (texts - 1) * _LEADING if texts else 0) + _GAP


def _fit(picture: np.ndarray, tile: int) -> Image:
    """Scale to a height: small ones in whole pixels, large ones smoothly."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture))
    width = max(1, round(image.width * tile / image.height))
    how = Image.Resampling.NEAREST if image.height < tile else Image.Resampling.LANCZOS
    return image if image.size == (width, tile) else image.resize((width, tile), how)


@lru_cache
def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _length(text: str, size: int) -> float:
    return float(_font(size).getlength(text)) if text else 0.0


def _broken(label: str, width: int) -> list[str]:
    """Break a label into lines of a width; of a very long one, words before the last are left out.

    The last word is often the value that belongs to the picture.
    """
    *words, last = label.split() or [""]
    lines = _filled([*words, last], width)
    while len(lines) > _LINES and words:
        words.pop()
        lines = _filled([*words, "…", last], width)
    if len(lines) <= _LINES:
        return lines
    end = last[-len(lines[0]) :]
    while _length(f"…{end}", _SMALL) > width:
        end = end[1:]
    return [*lines[: _LINES - 1], f"…{end}"]


def _filled(words: Sequence[str], width: int) -> list[str]:
    """Put words into lines, as many as fit into each; a word that is too wide is broken."""
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".lstrip()
        if _length(longer, _SMALL) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and _length(lines[-1] + letter, _SMALL) > width:
                lines.append("")
            lines[-1] += letter
    return lines if lines[-1] else []
