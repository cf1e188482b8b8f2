"""Images whose parts, scans or strips would take far longer to decode than their pixels do."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from filtersurgeon.data import decoding_cost
from filtersurgeon.data.opening import image_mode, open_image
from filtersurgeon.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40), np.uint8)


def _saved(kind: str, **options: object) -> bytes:
    file = BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    return file.getvalue()


def _scans(count: int) -> bytes:
    """Make a JPEG, and repeat its last scan, which adds nothing, with the table before it."""
    whole = _saved("JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    scan = whole[whole.rindex(b"\xff\xc4", 0, last) : -2]
    return whole[:-2] + scan * count + b"\xff\xd9"


def test_a_jpeg_of_many_scans_is_refused():
    few = open_image(_scans(20), "x")
    usual = open_image(_saved("JPEG", progressive=True), "x")
    assert few.size == usual.size == (40, 24)
    with pytest.raises(DataError, match=r"x\.jpg has more than 100 scans"):
        open_image(_scans(200), "x.jpg")


def _chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(count: int) -> bytes:
    whole = _saved("PNG")
    end = whole.index(b"IDAT") - 4
    return whole[:end] + _chunk(b"teSt") * count + whole[end:]


def _padded(count: int) -> bytes:
    return b"\xff\xd8" + b"\xff" * count + _saved("JPEG")[2:]


def _comments(count: int) -> bytes:
    return b"\xff\xd8" + b"\xff\xfe\0\x02" * count + _saved("JPEG")[2:]


def _blocks(count: int) -> bytes:
    whole = _saved("GIF")
    place = 13 + 3 * 2 ** (1 + (whole[10] & 7))
    return whole[:place] + b"!\xfe" + b"\1a" * count + b"\0" + whole[place:]


@pytest.mark.parametrize("make", [_png, _padded, _comments, _blocks])
def test_an_image_of_many_parts_is_refused(make: Callable[[int], bytes], monkeypatch):
    monkeypatch.setattr(decoding_cost, "MOST_PARTS", 500)
    assert open_image(make(20), "x").size == (40, 24)
    with pytest.raises(DataError, match="x consists of more than 500 parts"):
        open_image(make(1000), "x")


def test_parts_are_counted_up_to_a_million():
    """A chunk takes a few reads; no photograph has as many as twenty thousand chunks."""
    assert open_image(_png(20_000), "x").size == (40, 24)
    with pytest.raises(DataError, match="1,000,000 parts"):
        open_image(_padded(1_000_001), "x")


def _tiff(tags: list[tuple[int, int, int]], data: bytes, order: str = "<") -> bytes:
    """Make a TIFF of (tag, count, value or place)."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    rows = b"".join(struct.pack(order + "HHII", tag, 4, *rest) for tag, *rest in tags)
    return head + struct.pack(order + "H", len(tags)) + rows + bytes(4) + data


def _big_tiff(tags: list[tuple[int, int, int]], data: bytes) -> bytes:
    rows = b"".join(struct.pack("<HHQQ", tag, 16, *rest) for tag, *rest in tags)
    return b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(tags)) + rows + bytes(8) + data


def _strips(count: int, rows: int = 1, height: int = 4) -> list[tuple[int, int, int]]:
    place = 8 + 2 + 12 * 8 + 4
    return [(256, 1, 8), (257, 1, height), (258, 1, 8), (259, 1, 1), (262, 1, 1),
            (273, count, place), (277, 1, 1), (278, 1, rows)]  # fmt: skip


def test_strips_that_lie_upon_each_other_are_refused():
    for order in "<>":
        two = _tiff(_strips(2, rows=3), struct.pack(order + "II", 8, 8) + bytes(100), order)
        assert open_image(two, "x").size == (8, 4)
    # Each pair covers the image, and each is decoded.
    many = _tiff(_strips(40, rows=3), struct.pack("<40I", *[8] * 40) + bytes(100))
    with pytest.raises(DataError, match="x consists of tiles that lie upon each other"):
        open_image(many, "x")


@pytest.mark.parametrize("tag", [273, 324])
@pytest.mark.parametrize("make", [_tiff, _big_tiff, lambda *x: _tiff(*x, order=">")])
def test_strips_are_counted_before_they_are_listed(make, tag):
    tags = [(tag if t == 273 else t, n, x) for t, n, x in _strips(200_001, height=300_000)]
    with pytest.raises(DataError, match="x consists of more than 200,000 strips"):
        open_image(make(tags, bytes(1000)), "x")


@pytest.mark.parametrize("cut", [0, 1, 4, 7, 8, 9, 12, 30])
def test_the_begin_of_a_tiff_is_no_image(cut):
    with pytest.raises(DataError, match="is not an image"):
        open_image(_saved("TIFF")[:cut], "x")


@pytest.mark.parametrize("place", [0, 1, 2**31, 2**32 - 1])
def test_a_directory_that_is_elsewhere_is_no_image(place):
    with pytest.raises(DataError, match="is not an image"):
        open_image(b"II*\0" + struct.pack("<I", place) + bytes(20), "x")


def test_decoders_write_nothing(capfd, tmp_path: Path):
    tags = _strips(1, rows=4)
    deflated = [(t, n, 8 if t == 259 else x) for t, n, x in tags]
    broken = _tiff([*deflated, (279, 1, 50)], b"no deflated data" * 4)
    odd = _tiff([*tags[:6], (277, 1, 65_535), (278, 1, 4)], bytes(100))
    (tmp_path / "x.tif").write_bytes(broken)
    assert image_mode(tmp_path / "x.tif") == "L"
    for data in (broken, odd):
        with pytest.raises(DataError, match="x is not an image"):
            open_image(data, "x")
    whole = open_image(_saved("TIFF", compression="tiff_lzw"), "x")
    assert np.array_equal(np.asarray(whole), PIXELS)
    assert capfd.readouterr() == ("", "")
