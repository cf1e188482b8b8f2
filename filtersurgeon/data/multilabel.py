"""CSV files with one column for each class, as those of CheXpert and ChestX-ray14."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np

from filtersurgeon.checkpoint.documents import reason
from filtersurgeon.data.kinds import LabelTable, table_of
from filtersurgeon.data.labels import FILE_COLUMNS, LABEL_COLUMNS
from filtersurgeon.errors import DataError, OptionError, near_misses, printable

_UNKNOWN = frozenset({"", "-1", "u", "nan", "na", "n/a", "none", "null", "?"})
_KNOWN = {"0": 0.0, "1": 1.0, "true": 1.0, "false": 0.0}
_SHOWN = 6
_LONGEST = 60
_MOST_MISSING = 1_000_000


def has_label_columns(listing: Path) -> bool:
    """Tell whether a label file has a header with a column of files and none of labels."""
    if listing.suffix.lower() == ".json":
        return False
    try:
        with listing.open(encoding="utf-8-sig", newline="") as file:
            header = [word.strip().lower() for word in next(csv.reader(file), [])]
    except (OSError, ValueError, csv.Error):
        return False  # reported where the file is read
    return _file_column(header) is not None and not set(header) & set(LABEL_COLUMNS)


def read_label_columns(
    listing: Path, n_classes: int | None, columns: Sequence[str] = ()
) -> tuple[list[str], LabelTable]:
    """Read the files and the labels of a CSV file with one column for each class.

    A column of classes holds 0, 1, and -1, U or nothing where a label is unknown; other columns,
    such as age and sex, play no part. A column without any known label counts as a class only if
    the network has an output for it.

    Args:
        listing: the file; one column is called ``file``, ``image`` or ``path``.
        n_classes: outputs of the network; None if labels do not matter.
        columns: the classes, in the order of the outputs; all columns of classes by default.

    Returns:
        The names of the files, and their labels.

    Raises:
        DataError: the file cannot be read, has no class columns, or not as many as the network has
            outputs.
        OptionError: a column that was named is not there.
    """
    header, rows = _read(listing)
    file = _file_column([word.lower() for word in header])
    if file is None:
        raise DataError(f"{listing}: no column is called file, image or path")
    if columns:
        places = [_place(listing, header, name) for name in columns]
        if n_classes not in (None, len(places)):
            raise DataError(
                f"{listing}: `columns` names {len(places)} classes but the network has {n_classes} "
                f"outputs; name as many, or fit a head with fsurgeon tune --classes {len(places)}"
            )
    else:
        places = _class_columns(listing, header, rows, n_classes, file)
    values = np.empty((len(rows), len(places)), np.float32)
    for column, place in enumerate(places):
        for number, row in enumerate(rows):
            text = _value(row, place)
            if text not in _KNOWN and text not in _UNKNOWN:
                raise DataError(
                    f"{listing}: {text[:_LONGEST]!r} in the column {header[place]} is no label; "
                    "write 1, 0, or -1 if unknown"
                )
            values[number, column] = _KNOWN.get(text, np.nan)
    names = tuple(header[place] for place in places)
    return [row[file].strip() for row in rows], table_of(values, str(listing), names)


def _read(listing: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = listing.read_text(encoding="utf-8-sig")
        lines = [line for line in csv.reader(StringIO(text, newline="")) if line]
    except (OSError, ValueError, csv.Error) as problem:
        why = reason(problem)
        raise DataError(f"{listing}: not a list of files and labels ({why})") from problem
    header = [printable(" ".join(word.split())) for word in lines[0]] if lines else []
    if len(lines) < 2:
        raise DataError(f"{listing}: lists no files")
    # Each cell that is there takes a character; those that are missing would take memory.
    if len(header) * (len(lines) - 1) > len(text) + _MOST_MISSING:
        raise DataError(
            f"{listing}: most cells of its {len(lines) - 1:,} rows and {len(header):,} columns are "
            "missing; write each row with all its columns"
        )
    rows = [line + [""] * (len(header) - len(line)) for line in lines[1:]]
    return header, rows


def _file_column(header: Sequence[str]) -> int | None:
    return next((header.index(word) for word in FILE_COLUMNS if word in header), None)


def _place(listing: Path, header: Sequence[str], name: str) -> int:
    if name not in header:
        raise OptionError(f"{listing}: no column is called {name!r}{near_misses(name, header)}")
    return list(header).index(name)


def _value(row: Sequence[str], place: int) -> str:
    """Give a cell as a label is written: ``1.0`` is ``1``."""
    return row[place].strip().lower().removesuffix(".0")


def _class_columns(
    listing: Path,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    n_classes: int | None,
    file: int,
) -> list[int]:
    """Find the columns that hold labels."""
    known, empty = [], []
    for place in range(len(header)):
        found = {_value(row, place) for row in rows} if place != file else {"."}
        if found <= _UNKNOWN:
            empty.append(place)
        elif all(text in _KNOWN or text in _UNKNOWN for text in found):
            known.append(place)
    if n_classes is not None and len(known) + len(empty) == n_classes:
        known = sorted(known + empty)
    if not known:
        raise DataError(
            f"{listing}: no column is called label or class, or holds labels (1, 0, and -1 or "
            "nothing if unknown); name the columns of the classes with `columns`"
        )
    if n_classes is not None and len(known) != n_classes:
        named = ", ".join(header[place] for place in known[:_SHOWN])
        raise DataError(
            f"{listing}: {len(known)} label columns ({named}{', ...' * (len(known) > _SHOWN)}) but "
            f"the network has {n_classes} outputs; choose with `columns`, or fit a head with "
            f"fsurgeon tune --classes {len(known)}"
        )
    return known
