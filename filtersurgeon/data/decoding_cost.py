"""Bounds on what decoding an image may cost where its number of pixels does not tell.

Decoders read the parts of a file one by one in Python, go over all pixels once for each scan of a
JPEG, and decode every strip or tile of a TIFF by itself. A file of a few megabytes may have
millions of each.
"""

from __future__ import annotations

import struct
from io import SEEK_END
from typing import IO, Any, NamedTuple

from filtersurgeon.checkpoint.bytesource import BoundedFile

MOST_PARTS = 1_000_000
"""Reads of a decoder: chunks of a PNG, segments of a JPEG, blocks of a GIF."""
MOST_SCANS = 100
"""Scans of a JPEG; libtiff allows as many."""
MOST_TILES = 200_000
"""Strips or tiles of a TIFF, in its first image."""
MOST_NUMBERS = 20_000_000
"""Values of a PPM that writes them as text."""
_MOST_LAYERS = 8
_SCAN = b"\xff\xda"
_PLACES = (273, 324)  # the tags of the offsets of strips and of tiles
_COUNTS = (279, 325)  # of their bytes
_KINDS = {3: "H", 4: "I", 16: "Q"}
_SHARED = 256 << 20  # bytes that decoders go over within a second
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
    """Refuse a TIFF of too many strips, or of strips that share their bytes, before it is decoded.

    Decoders read each strip by itself: a megabyte that is named by every strip is read as often.
    The file is left at its beginning. What is no TIFF, or a damaged one, is left to the decoder.

    Raises:
        CostlyImage: it has too many, or they are larger together than the file.
    """
    file.seek(0)
    most = nbytes = 0
    size = file.seek(0, SEEK_END)
    try:
        directory = _Directory.read(file)
        most = max((row.number for row in directory.find(_PLACES)), default=0)
        if most <= MOST_TILES:
            nbytes = directory.claimed(file, size)
    except (struct.error, OSError, OverflowError, ValueError):
        pass
    finally:
        file.seek(0)
    if most > MOST_TILES:
        raise CostlyImage(f"consists of more than {MOST_TILES:,} strips")
    if nbytes > _MOST_LAYERS * size + _SHARED:
        raise CostlyImage("consists of strips that share their bytes")


class _Row(NamedTuple):
    """An entry of a directory: its tag, the type and number of its values, and their bytes."""

    tag: int
    kind: int
    number: int
    value: bytes


class _Directory(NamedTuple):
    """The first directory of a TIFF."""

    order: str
    place: str
    rows: list[_Row]

    @classmethod
    def read(cls, file: IO[bytes]) -> _Directory:
        """Read the entries; none of what is no TIFF. Raises as ``struct`` and files do."""
        file.seek(0)
        head = file.read(16)
        if head[:2] not in (b"II", b"MM"):
            return cls("<", "I", [])
        order = "<" if head[:2] == b"II" else ">"
        # The later format, BigTIFF, has longer numbers.
        number, place, entry = ("H", "I", 12) if 43 not in head[2:4] else ("Q", "Q", 20)
        (begin,) = struct.unpack_from(order + place, head, 4 if entry == 12 else 8)
        file.seek(begin)
        (tags,) = struct.unpack(order + number, file.read(struct.calcsize(number)))
        rows = file.read(entry * min(tags, _MOST_TAGS))
        form = f"{order}HH{place}{struct.calcsize(place)}s"
        whole = len(rows) - len(rows) % entry
        return cls(order, place, [_Row(*row) for row in struct.iter_unpack(form, rows[:whole])])

    def find(self, tags: tuple[int, ...]) -> list[_Row]:
        """Give the entries of these tags."""
        return [row for row in self.rows if row.tag in tags]

    def claimed(self, file: IO[bytes], size: int) -> int:
        """Add up the bytes of all strips and tiles.

        Where they are not stated, libtiff takes the whole file for each.

        Args:
            file: the image.
            size: its bytes.
        """
        found, told = 0, self.find(_COUNTS)
        if not told:
            return size * max((row.number for row in self.find(_PLACES)), default=0)
        for row in told:
            letter = _KINDS.get(row.kind, "I")
            item, count = struct.calcsize(letter), min(row.number, MOST_TILES)
            data = row.value
            if item * row.number > len(data):
                file.seek(struct.unpack(self.order + self.place, data)[0])
                data = file.read(item * count)
            count = min(count, len(data) // item)
            found += sum(struct.unpack_from(f"{self.order}{count}{letter}", data))
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
    if any(tile[0] == "ppm_plain" for tile in tiles):
        numbers = image.width * image.height * len(image.getbands())
        if numbers > MOST_NUMBERS:
            raise CostlyImage(f"is a text of more than {MOST_NUMBERS:,} numbers")
    area = sum((x1 - x0) * (y1 - y0) for _, (x0, y0, x1, y1), *_ in tiles)
    if area > _MOST_LAYERS * image.width * image.height:
        raise CostlyImage("consists of tiles that lie upon each other")
