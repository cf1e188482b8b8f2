"""Lists of files and labels, CSV and JSON."""

from filtersurgeon.data.labels import listed_rows
from fuzz.scratch import place


def corpus() -> list[bytes]:
    return [
        b"Cfile,label\na.png,3\nb.png,4\n",
        b'Ca.png,cat\n"b,c.png",dog\n',
        b'J{"a.png": 3, "b.png": "cat"}',
        b'J[{"file": "a.png", "label": 1}, {"image": "b.png", "class": 2}]',
    ]


def repair(case: bytes) -> bytes:
    return case if case[:1] in (b"C", b"J") else b"C" + case


def read(case: bytes) -> None:
    suffix = "json" if case[:1] == b"J" else "csv"
    listed_rows(place(f"labels.{suffix}", case[1:]))
