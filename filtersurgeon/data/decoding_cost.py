"""Bounds on what decoding an image may cost where its number of pixels does not tell.

Decoders read the parts of a file one by one in Python, go over all pixels once for each scan of a
JPEG, and decode every strip or tile of a TIFF by itself. A file of a few megabytes may have
millions of each.
"""

from __future__ import annotations

import struct
from typing import IO, Any

from filtersurgeon.checkpoint.bytesource import BoundedFile

MOST_PARTS = 1_000_000
"""Reads of a decoder: chunks of a PNG, segments of a JPEG, blocks of a GIF."""
MOST_SCANS = 100
"""Scans of a JPEG; libtiff allows as many."""
MOST_TILES = 200_000
"""Strips or tiles of a TIFF, in its first image."""
_MOST_LAYERS = 8
_SCAN = b"\xff\xda"
_PLACES = (273, 324)  # the tags of the offsets of strips and of tiles
_MOST_TAGS = 65_535


class CostlyImage(Exception):  # noqa: N818 - an outcome, turned into an error by the caller
    """An image would take far longer than its size justifies; the text says why."""


class Parts(BoundedFile):
    """A file that a decoder reads part by part, which counts the parts.

    Attributes:
        counts_scans: whether a JPEG is being decoded, in which every scan has a mark of its own.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.counts_scans = False
        self._parts = self._scans = 0

    def read(self, count: int = -1) -> bytes:
        """Read as the base does; raises CostlyImage where there are too many parts."""
        data = super().read(count)
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise CostlyImage(f"consists of more than {MOST_PARTS:,} parts")
        if self.counts_scans:
            self._scans += data.count(_SCAN)
            if self._scans > MOST_SCANS:
                raise CostlyImage(f"has more than {MOST_SCANS} scans")
        return data


def check_strips(file: IO[bytes]) -> None:
    """Refuse a TIFF of too many strips before a decoder lists them; leaves the file at its begin.

    What is no TIFF, or a damaged one, is left to the decoder.

    Raises:
        CostlyImage: it has too many.
    """
    file.seek(0)
    try:
        counts = _strip_counts(file)
    except (struct.error, OSError, OverflowError, ValueError):
        counts = []
    finally:
        file.seek(0)
    if max(counts, default=0) > MOST_TILES:
        raise CostlyImage(f"consists of more than {MOST_TILES:,} strips")


def _strip_counts(file: IO[bytes]) -> list[int]:
    """Read how many offsets the first directory of a TIFF lists."""
    head = file.read(16)
    if head[:2] not in (b"II", b"MM"):
        return []
    order = "<" if head[:2] == b"II" else ">"
    # The later format, BigTIFF, has longer numbers.
    number, place, count, entry = ("H", "I", "I", 12) if 43 not in head[2:4] else ("Q",) * 3 + (20,)
    (begin,) = struct.unpack_from(order + place, head, 4 if entry == 12 else 8)
    file.seek(begin)
    (tags,) = struct.unpack(order + number, file.read(struct.calcsize(number)))
    rows = file.read(entry * min(tags, _MOST_TAGS))
    found: list[int] = []
    for at in range(0, len(rows) - entry + 1, entry):
        if struct.unpack_from(order + "H", rows, at)[0] in _PLACES:
            found += struct.unpack_from(order + count, rows, at + 4)
    return found


def check_tiles(image: Any) -> None:
    """Refuse an image whose tiles are too many, or lie upon each other again and again.

    Args:
        image: of Pillow, opened and not yet decoded.

    Raises:
        CostlyImage: decoding the tiles would take many times as long as one image does.
    """
    tiles = image.tile
    if len(tiles) > MOST_TILES:
        raise CostlyImage(f"consists of more than {MOST_TILES:,} tiles")
    area = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in tiles)
    if area > _MOST_LAYERS * image.width * image.height:
        raise CostlyImage("consists of tiles that lie upon each other")
