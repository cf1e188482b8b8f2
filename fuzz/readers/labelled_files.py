"""Label files of a folder of images: what they name is inside, and is a file."""

from __future__ import annotations

import os
from functools import cache

from PIL import Image

from filtersurgeon.data.reading import check_classes, read_source, readable, within_range
from filtersurgeon.data.splits import choose_part
from fuzz.scratch import FOLDER, place

_HOME = FOLDER / "photographs"


@cache
def _folder() -> str:
    for name in ("0", "1"):
        (_HOME / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(_HOME / name / "x.png")
    os.mkfifo(_HOME / "0" / "pipe.png")
    (_HOME / "1" / "link.png").symlink_to("x.png")
    (_HOME / "1" / "nothing.png").symlink_to("gone.png")
    return str(_HOME)


def corpus() -> list[bytes]:
    return [
        b"Cfile,label\n0/x.png,3\n1/x.png,4\n",
        b"C0/x.png,2\n1/../1/link.png,1\n",
        b"C0,7\n1,3\n",
        b'J{"0/x.png": 3, "1/x.png": 1}',
        b'J[{"file": "0/x.png", "label": 1}, {"image": "1/x.png", "class": 2}]',
    ]


def refused() -> list[bytes]:
    return [
        b"C../x.png,1\n",
        b"C/etc/passwd,1\n",
        b"C0/x.png," + b"9" * 5000 + b"\n",
        b"C0/pipe.png,1\n1/nothing.png,2\n",
    ]


def repair(case: bytes) -> bytes:
    return case if case[:1] in (b"C", b"J") else b"C" + case


def _accept(_image: object) -> None:
    return


def read(case: bytes) -> None:
    suffix = "json" if case[:1] == b"J" else "csv"
    listing = str(place(f"labelled.{suffix}", case[1:]))
    home = _folder()
    source, problems = read_source(
        home, choose_part(home, None, "measure", listing), 10, listing, None
    )
    good, mislabelled = within_range(source, 10)
    good, unreadable = readable(source, good[:4], _accept)
    check_classes(source.labels, 10, 10, "labels")
    for path in source.paths:  # type: ignore[attr-defined]
        assert os.path.abspath(path).startswith(home)
    for index in good:
        source.image(index)
    if not good:
        from filtersurgeon.errors import DataError

        raise DataError("; ".join([*problems, *mislabelled, *unreadable])[:1000])
