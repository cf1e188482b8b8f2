"""Finding labelled images in a data set, and the output of the network that each belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from filtersurgeon.data import labels as naming
from filtersurgeon.data.catalogue import read_torchvision
from filtersurgeon.data.checks import check_classes
from filtersurgeon.data.dashes import is_dashes, read_dashes
from filtersurgeon.data.sources import (
    ArrayImages,
    FileImages,
    ImageSource,
    array_images,
    npz_arrays,
    npz_classes,
    read_npz,
)
from filtersurgeon.data.splits import Part
from filtersurgeon.errors import DataError

INDICES = "indices"
"""In the place of a label file: the labels are the network's own class indices."""


def read_source(
    source: str, part: Part, n_classes: int | None, labels: str | None, root: str | None
) -> tuple[ImageSource, list[str]]:
    """Find out what a data set is and read its labels.

    Args:
        source: a folder, a ``.npz`` file, or a name.
        part: which part of it.
        n_classes: outputs of the network; None if labels do not matter. Images without labels are
            then read too: a folder of image files, or a ``.npz`` file of images alone.
        labels: a list of labelled files, a map of classes, or ``indices``.
        root: the folder of torchvision's data sets.

    Returns:
        The images, and what is wrong with some of them.

    Raises:
        DataError: nothing there, or its classes are not the network's.
    """
    path = Path(source)
    if path.is_dir():
        return _read_folder(part.folder or path, labels, n_classes)
    found = _read_arrays(source, part, root, labelled=n_classes is not None)
    if labels is not None and labels != INDICES:
        known = naming.class_map(Path(labels), n_classes)
        return replace(found, labels=naming.mapped(found.labels, known, labels)), []
    if labels is None and n_classes is not None:
        count = npz_classes(path) if path.is_file() else 0
        check_classes(found.labels, max(count, 1 + max(found.labels)), n_classes, part.data)
    return found, []


def has_labels(source: str, part: Part, labels: str | None) -> bool:
    """Tell whether images have labels: files in no class folder, and images alone, have none."""
    path = Path(source)
    if labels is not None:
        return True
    if path.is_dir():
        return not naming.unlabelled_files(part.folder or path)
    arrays = npz_arrays(path)
    return not arrays or not arrays.isdisjoint(("y", f"y_{part.split}"))


def count_classes(source: str, part: Part, root: str | None) -> int:
    """Count the classes of a data set without a label file: its folders, or its highest label."""
    path = Path(source)
    if path.is_dir():
        return len({name for _, name in naming.folder_pairs(part.folder or path)})
    count = npz_classes(path) if path.is_file() else 0
    return max(count, 1 + max(_read_arrays(source, part, root).labels))


def _read_arrays(
    source: str, part: Part, root: str | None, labelled: bool = True
) -> FileImages | ArrayImages:
    """Read a data set that is no folder of images."""
    path = Path(source)
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path, part.split, labelled)
    if path.is_file():
        raise DataError(f"{path}: not a .npz file; give the folder that holds the images")
    if is_dashes(source):
        return array_images(*read_dashes(source, part.split), source)
    return read_torchvision(source, Path(root or "."), part.split)


def _read_folder(
    root: Path, labels: str | None, n_classes: int | None
) -> tuple[FileImages, list[str]]:
    """Read class folders, or the files that a label file lists."""
    if labels is None:
        files = naming.unlabelled_files(root) if n_classes is None else []
        if files:
            return FileImages(files, [0] * len(files), root), []
        pairs = naming.folder_pairs(root)
        known = naming.class_indices({name for _, name in pairs}, n_classes)
        return _files(root, pairs, known), []
    if labels == INDICES:
        pairs = naming.folder_pairs(root)
        return _files(root, pairs, naming.own_indices(name for _, name in pairs)), []
    rows = naming.listed_rows(Path(labels))
    if all((root / name).is_dir() for name, _ in rows):
        pairs = naming.folder_pairs(root)
        known = naming.class_map(Path(labels), n_classes)
        numbers = naming.mapped([name for _, name in pairs], known, labels)
        return FileImages([file for file, _ in pairs], numbers, root), []
    pairs = [(root / name, label) for name, label in rows]
    missing = [f"{file}: listed in {labels} but missing" for file, _ in pairs if not file.is_file()]
    pairs = [pair for pair in pairs if pair[0].is_file()]
    return _files(root, pairs, naming.listed_indices({x for _, x in pairs}, n_classes)), missing


def _files(root: Path, pairs: Sequence[tuple[Path, str]], known: Mapping[str, int]) -> FileImages:
    return FileImages([file for file, _ in pairs], [known[name] for _, name in pairs], root)
