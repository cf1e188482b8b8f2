"""From folder names and label files to class indices."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint.documents import parse_json, reason
from filtersurgeon.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
MAX_LABELS = 50_000_000
FILE_COLUMNS = (
    "file", "filename", "file_name", "image", "path", "filepath", "image_path", "image_id",
    "image index", "name",
)  # fmt: skip
_SHOWN = 200
"""Characters of a name in an error."""
LABEL_COLUMNS = ("label", "class", "target", "category", "y")


def class_indices(names: Iterable[str], n_classes: int | None) -> dict[str, int]:
    """Map class names to the outputs of a network.

    WordNet identifiers (``n01440764``) are looked up in the list that timm keeps for a network
    of this many classes, so that a folder with only some of ImageNet's classes is mapped right.
    Otherwise there must be as many names as classes: whole numbers are indices themselves
    (sorting text would put 10 before 2), anything else is sorted.

    Args:
        names: distinct class names.
        n_classes: outputs of the network; None if labels do not matter, then names are sorted.

    Returns:
        Class index of every name.

    Raises:
        DataError: the number of classes is not the network's, or an identifier is unknown.
    """
    ordered = sorted(set(names))
    if n_classes is None:
        return {name: index for index, name in enumerate(ordered)}
    synsets = _synsets(n_classes) if all(re.fullmatch(r"n\d{8}", name) for name in ordered) else []
    if synsets:
        position = {synset: index for index, synset in enumerate(synsets)}
        unknown = [name for name in ordered if name not in position]
        if unknown:
            raise DataError(
                f"{unknown[0]}: not among the {n_classes} WordNet classes of the network"
            )
        return {name: position[name] for name in ordered}
    if len(ordered) != n_classes:
        raise classes_differ("the data", len(ordered), n_classes)
    if {_index(name) for name in ordered if name.isdecimal()} == set(range(n_classes)):
        return {name: _index(name) for name in ordered}
    return {name: index for index, name in enumerate(ordered)}


def classes_differ(title: str, count: int, n_classes: int) -> DataError:
    """Make the error for a data set whose classes are not the network's.

    Args:
        title: how messages call the data set.
        count: its classes.
        n_classes: outputs of the network.
    """
    return DataError(
        f"{title} has {count} class{'es' * (count != 1)} but the network's head has {n_classes}; "
        f"fit a head with fsurgeon tune --classes {count}, or map them with `labels` (FILE, or "
        "indices)"
    )


def listed_indices(labels: Iterable[str], n_classes: int | None) -> dict[str, int]:
    """Map the labels of a label file to outputs: whole numbers are indices, others are names."""
    written = set(labels)
    if all(label.removeprefix("-").isdecimal() for label in written):
        return {label: _index(label) for label in written}
    return class_indices(written, n_classes)


def own_indices(names: Iterable[str]) -> dict[str, int]:
    """Read the names of class folders as indices; raises DataError where one is no number."""
    found = set(names)
    wrong = next((name for name in sorted(found) if not name.isdecimal()), None)
    if wrong is not None:
        raise DataError(
            f"class directory {wrong!r} is no index; `labels` FILE maps it to an output"
        )
    return {name: _index(name) for name in found}


_DIGITS = 18
_IMAGENET = 1000


def _index(text: str) -> int:
    """Read a whole number; raises DataError where it is far too long to be an index."""
    if len(text) > _DIGITS:
        raise DataError(f"a label of {len(text)} digits ({text[:_DIGITS]}...) is no class index")
    return int(text)


def class_map(listing: Path, n_classes: int | None) -> dict[str, int]:
    """Read a label file that maps the classes of a data set to the outputs of a network.

    Args:
        listing: JSON ``{"class": output}``, or CSV with two columns. A class is a folder's name or
            a label's number; an output is an index, or a WordNet identifier.
        n_classes: outputs of the network; None if labels do not matter.

    Raises:
        DataError: the file cannot be read, or an output is unknown.
    """
    rows = listed_rows(listing)
    known = listed_indices((label for _, label in rows), n_classes)
    return {name.strip(): known[label] for name, label in rows}


def map_classes(classes: Sequence[str | int], known: Mapping[str, int], listing: str) -> list[int]:
    """Map the class of every image; raises DataError where one is not in the map."""
    found = [known.get(str(name), -1) for name in classes]
    if -1 in found:
        raise DataError(f"{listing}: does not say which output is class {classes[found.index(-1)]}")
    return found


def _synsets(n_classes: int) -> list[str]:
    """Give the WordNet identifiers of a head of this size, in order; empty if there is none."""
    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": n_classes})
    return list(ImageNetInfo(subset).label_names()) if subset else []


def imagenet_names(n_classes: int) -> tuple[str, ...]:
    """Give the first name of each class of ImageNet-1k, for 1,000 classes; else nothing."""
    if n_classes != _IMAGENET:
        return ()
    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    described = (info.index_to_description(index) for index in range(n_classes))
    return tuple(text.partition(",")[0] for text in described)


def folder_pairs(root: Path) -> list[tuple[Path, str]]:
    """List the image files of a folder with one folder per class.

    Args:
        root: the folder; images may lie deeper below their class folder.

    Returns:
        (file, class name), sorted.

    Raises:
        DataError: there is no class folder, or one of them holds no image or is a link to a folder
            that contains it.
    """
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    if not folders:
        how = "its images need labels, " if unlabelled_files(root) else "if it holds images, "
        raise DataError(f"{root}: holds no class directories; {how}pass a label file with `labels`")
    pairs = []
    for folder in folders:
        if folder.is_symlink() and root.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"{folder}: links to a directory that contains it")
        files = sorted(
            path for path in entries_below(folder) if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not files:
            raise DataError(f"{folder}: holds no images")
        pairs += [(path, folder.name) for path in files]
    return pairs


def entries_below(folder: Path) -> Iterator[Path]:
    """List what is in a folder, at any depth; links to folders are listed and not followed."""
    left = [str(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    left.append(entry.path)


def names_of_classes(
    paths: Sequence[Path], labels: Sequence[int], root: Path, n_classes: int
) -> list[str]:
    """Name the classes of a folder with one folder per class.

    Returns:
        The folder of each class, or nothing where not every class has one folder of its own, or
        the folders have WordNet identifiers, which say less than their classes' names.
    """
    found: dict[int, str] = {}
    for path, label in zip(paths, labels, strict=True):
        below = path.relative_to(root).parts if path.is_relative_to(root) else ()
        if len(below) < 2 or found.setdefault(label, below[0]) != below[0]:
            return []
    named = set(found.values())
    if set(found) != set(range(n_classes)) or len(named) < n_classes:
        return []
    if all(re.fullmatch(r"n\d{8}", name) for name in named):
        return []
    return [found[index] for index in range(n_classes)]


def unlabelled_files(root: Path) -> list[Path]:
    """List the image files that lie in a folder itself, sorted; none where it has class folders."""
    entries = sorted(root.iterdir())
    if any(entry.is_dir() and entry.name[:1] != "." for entry in entries):
        return []
    return [entry for entry in entries if entry.suffix.lower() in IMAGE_SUFFIXES]


def listed_rows(listing: Path) -> list[tuple[str, str]]:
    """Read the rows of a label file as written.

    CSV: with a header (a column called ``file``, ``filename``, ``image`` or ``path`` and one
    called ``label``, ``class`` or ``target``) or two bare columns. JSON: ``{"file": label}`` or
    ``[{"file": ..., "label": ...}]``.

    Returns:
        (file or class, label), in the order of the listing.

    Raises:
        DataError: the listing cannot be read, or is empty.
    """
    try:
        text = listing.read_text(encoding="utf-8-sig")
        rows = _json_rows(text) if listing.suffix.lower() == ".json" else _csv_rows(text)
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as problem:
        why = reason(problem)
        raise DataError(f"{listing}: not a list of files and labels ({why})") from problem
    if not rows:
        raise DataError(f"{listing}: lists no files")
    return rows


def check_inside(root: Path, rows: Iterable[tuple[str, str]], listing: str) -> None:
    """Refuse a label file that names files outside of the folder of images.

    What it names is read, and may be shown: a label file from elsewhere must not choose it.

    Args:
        root: the folder of images.
        rows: of the label file.
        listing: what errors call the label file.

    Raises:
        DataError: a name leads out of the folder.
    """
    place = os.path.abspath(root)
    for name, _ in rows:
        if name[:1] != os.sep and ".." not in name:
            continue
        path = os.path.normpath(os.path.join(place, name))
        if path != place and not path.startswith(os.path.join(place, "")):
            raise DataError(
                f"{listing} names {name[:_SHOWN]!r}, which is outside of {root}; "
                "give the directory that holds all images as the data"
            )


def _json_rows(text: str) -> list[tuple[str, str]]:
    """Read a JSON object or a list of records."""
    found: Any = parse_json(text, limit=MAX_LABELS)
    if isinstance(found, dict):
        return [(str(name), str(label)) for name, label in found.items()]
    return [
        (str(_pick(record, FILE_COLUMNS)), str(_pick(record, LABEL_COLUMNS))) for record in found
    ]


def _csv_rows(text: str) -> list[tuple[str, str]]:
    """Read a CSV text with or without a header."""
    lines = [line for line in csv.reader(StringIO(text, newline="")) if line]
    if not lines:
        return []
    header = [word.strip().lower() for word in lines[0]]
    if any(word in FILE_COLUMNS for word in header):
        records = [dict(zip(header, line, strict=False)) for line in lines[1:]]
        return [
            (_pick(record, FILE_COLUMNS), _pick(record, LABEL_COLUMNS).strip())
            for record in records
        ]
    return [(line[0], line[1].strip()) for line in lines]


def _pick(record: dict[str, Any], columns: Sequence[str]) -> Any:
    """Take the first column that the record has."""
    for column in columns:
        if column in record:
            return record[column]
    raise ValueError(f"it needs a column called {' or '.join(columns[:3])}")
