"""Finding labelled images in a data set, and the output of the network that each belongs to.

Torchvision's data sets are found by name. Labels are checked against the outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any, NamedTuple

from filtersurgeon.data import labels as naming
from filtersurgeon.data.generated import GENERATED, is_generated, read_generated
from filtersurgeon.data.given import GivenImages
from filtersurgeon.data.kinds import CLASSES, MULTILABEL, LabelTable, kind_of
from filtersurgeon.data.labels import classes_differ
from filtersurgeon.data.masks import has_masks, pair_masks, read_mask_folders
from filtersurgeon.data.multilabel import has_label_columns, read_label_columns
from filtersurgeon.data.opening import image_mode, name_in
from filtersurgeon.data.sources import (
    ArrayImages,
    FileImages,
    ImageSource,
    array_images,
    find_arrays,
    npz_arrays,
    npz_classes,
    read_npz,
)
from filtersurgeon.data.splits import Part
from filtersurgeon.errors import DataError, near_misses, printable


class _Known(NamedTuple):
    """How one torchvision dataset is opened."""

    cls: str
    option: str
    train: Any
    test: Any


TORCHVISION = {
    "cifar10": _Known("CIFAR10", "train", True, False),
    "cifar100": _Known("CIFAR100", "train", True, False),
    "mnist": _Known("MNIST", "train", True, False),
    "fashionmnist": _Known("FashionMNIST", "train", True, False),
    "kmnist": _Known("KMNIST", "train", True, False),
    "svhn": _Known("SVHN", "split", "train", "test"),
    "stl10": _Known("STL10", "split", "train", "test"),
    "imagenet": _Known("ImageNet", "split", "train", "val"),
    "imagenette": _Known("Imagenette", "split", "train", "val"),
    "flowers102": _Known("Flowers102", "split", "train", "test"),
    "food101": _Known("Food101", "split", "train", "test"),
    "pets": _Known("OxfordIIITPet", "split", "trainval", "test"),
    "dtd": _Known("DTD", "split", "train", "test"),
}


def read_torchvision(name: str, root: Path, split: str) -> FileImages | ArrayImages:
    """Open a torchvision dataset that is already on disk.

    Args:
        name: a key of ``TORCHVISION``.
        root: the folder that torchvision calls ``root``; nothing is downloaded.
        split: ``train`` or ``test``.

    Raises:
        DataError: unknown name, or the dataset is not below the root.
    """
    from filtersurgeon.checkpoint.vision import import_torchvision

    import_torchvision()
    from torchvision import datasets

    known = TORCHVISION.get(name.lower())
    if known is None:
        hint = near_misses(name, [*TORCHVISION, *GENERATED])
        raise DataError(f"{name}: no such file, directory or dataset{hint}")
    choice = {known.option: known.train if split == "train" else known.test}
    if known.cls != "ImageNet":
        choice["download"] = False
    try:
        found = getattr(datasets, known.cls)(root=str(root), **choice)
    except (RuntimeError, OSError, ImportError) as problem:
        raise DataError(
            f"{name}: not found in {root}; `root` is the directory that contains the data set"
        ) from problem
    return _unwrap(found, name, root)


def _unwrap(found: Any, name: str, root: Path) -> FileImages | ArrayImages:
    """Take the arrays or the file list out of a torchvision dataset."""
    import numpy as np

    if hasattr(found, "data"):
        labels = found.targets if hasattr(found, "targets") else found.labels
        return array_images(np.asarray(found.data), labels, name)
    pairs = getattr(found, "samples", None) or getattr(found, "_samples", None)
    if pairs is None:
        files = getattr(found, "_image_files", None) or found._images
        pairs = list(zip(files, found._labels, strict=True))
    return FileImages([Path(file) for file, _ in pairs], [int(label) for _, label in pairs], root)


UNLIKELY = 1e-6


def check_classes(labels: Sequence[int], count: int, n_classes: int, title: str) -> None:
    """Refuse labels of another set of classes than the network's.

    A few images may lack the last classes. Labels are refused if so many images would have none
    above the highest label with a probability below ``UNLIKELY``, were all classes equally likely.

    Args:
        labels: of all images.
        count: classes of the data set, which is its highest label and one.
        n_classes: outputs of the network.
        title: how messages call the data set.

    Raises:
        DataError: they are another network's.
    """
    if count < n_classes and len(labels) * log(max(count, 1) / n_classes) < log(UNLIKELY):
        raise classes_differ(title, count, n_classes)


def within_range(source: ImageSource, n_classes: int | None) -> tuple[list[int], list[str]]:
    """Part the images with a label that the network has from the others, which are named.

    Args:
        source: where images come from.
        n_classes: outputs of the network; None if labels do not matter.
    """
    if kind_of(source.labels) != CLASSES:
        return list(range(len(source.labels))), []
    good, problems = [], []
    for index, label in enumerate(source.labels):
        if n_classes is None or 0 <= label < n_classes:
            good.append(index)
        else:
            problems.append(
                f"{source.name(index)}: label {label},"
                f" but the network's head has {n_classes} classes"
            )
    return good, problems


def readable(
    source: ImageSource, indices: Sequence[int], check: Callable[[Any], None]
) -> tuple[list[int], list[str]]:
    """Part the images that can be decoded from the others, which are named.

    Args:
        source: where images come from.
        indices: positions to try; decoding runs in threads.
        check: raises DataError where an image cannot be resized.
    """
    from concurrent.futures import ThreadPoolExecutor

    if isinstance(source, ArrayImages):
        return list(indices), []

    def attempt(index: int) -> str | None:
        try:
            with source.image(index) as image:
                check(image)
            source.labels[index]  # a mask is read here
        except DataError as problem:
            return name_in(problem, source.name(index))
        return None

    with ThreadPoolExecutor(_DECODERS) as pool:
        found = list(zip(indices, pool.map(attempt, indices), strict=True))
    return (
        [index for index, problem in found if problem is None],
        [problem for _, problem in found if problem is not None],
    )


_DECODERS = 4
"""Threads that decode images, each of which may hold a large one."""


def channel_note(source: ImageSource, good: list[int], channels: int) -> list[str]:
    """Say whether a look at a few images found grey ones for a colour network, or the reverse."""
    step = max(1, len(good) // 32)
    wrong = {
        1: ("RGB", "colour images converted to grey"),
        3: ("L", "grey images converted to colour"),
    }
    if channels not in wrong:
        return []
    mode, text = wrong[channels]
    if isinstance(source, ArrayImages):
        return [text] if source.pixels.shape[-1] != channels else []
    for index in good[::step]:
        if isinstance(source, FileImages) and image_mode(source.paths[index]) == mode:
            return [f"{text}, such as {source.name(index)}"]
    return []


INDICES = "indices"
"""In the place of a label file: the labels are the network's own class indices."""


def read_source(
    source: str,
    part: Part,
    n_classes: int | None,
    labels: str | None,
    root: str | None,
    columns: Sequence[str] = (),
) -> tuple[ImageSource, list[str]]:
    """Find out what a data set is and read its labels. Only here their kind is decided.

    Args:
        source: a folder, a ``.npz`` file, or a name.
        part: which part of it.
        n_classes: outputs of the network; None if labels do not matter. Images without labels are
            then read too: a folder of image files, or a ``.npz`` file of images alone.
        labels: a list of labelled files, a CSV file with a column for each class, a folder of
            masks, a map of classes, or ``indices``.
        root: the folder of torchvision's data sets.
        columns: of the classes in a CSV file; all by default.

    Returns:
        The images, and what is wrong with some of them.

    Raises:
        DataError: nothing there, or its classes are not the network's.
    """
    found, problems = _read_any(source, part, n_classes, labels, root, columns)
    return _without_labels(found) if n_classes is None else found, problems


def label_kind(
    source: str, part: Part, labels: str | None, root: str | None, columns: Sequence[str] = ()
) -> str:
    """Tell the kind of the labels of a data set, see ``data/kinds.py``.

    Args:
        source: a folder, a ``.npz`` file, or a name.
        part: which part of it.
        labels: as :func:`read_source` takes them.
        root: the folder of torchvision's data sets.
        columns: of the classes in a CSV file.

    Raises:
        DataError: nothing there, or labels that cannot be read.
    """
    return kind_of(_read_any(source, part, None, labels, root, columns)[0].labels)


def _read_any(
    source: str,
    part: Part,
    n_classes: int | None,
    labels: str | None,
    root: str | None,
    columns: Sequence[str],
) -> tuple[FileImages | ArrayImages, list[str]]:
    """Read images and their labels, which are kept even where they do not matter."""
    path = Path(source)
    if path.is_dir():
        return _read_folder(part.folder or path, labels, n_classes, columns)
    found = _read_arrays(source, part, root, labelled=n_classes is not None)
    if kind_of(found.labels) != CLASSES:
        if labels is not None:
            raise DataError(f"{part.data}: its labels are no classes to map; leave out `labels`")
        _check_table(found.labels, n_classes, part.data)
        return found, []
    if labels is not None and labels != INDICES:
        known = naming.class_map(Path(labels), n_classes)
        return replace(found, labels=naming.map_classes(found.labels, known, labels)), []
    if labels is None and n_classes is not None:
        count = npz_classes(path) if path.is_file() else 0
        check_classes(found.labels, max(count, 1 + max(found.labels)), n_classes, part.data)
    return found, []


def _without_labels(source: Any) -> Any:
    """Give images whose labels are no classes, and do not matter, with labels of 0."""
    if kind_of(source.labels) == CLASSES:
        return source
    return replace(source, labels=[0] * len(source.labels))


def _check_table(labels: Any, n_classes: int | None, title: str) -> None:
    """Refuse as many labels for each image as the network has not outputs."""
    if kind_of(labels) != MULTILABEL or n_classes is None:
        return
    count = labels.values.shape[1]
    if count != n_classes:
        raise DataError(
            f"{title} has labels of {count} classes but the network has {n_classes} outputs; fit a "
            f"head with fsurgeon tune --classes {count}"
        )


def has_labels(source: str, part: Part, labels: str | None) -> bool:
    """Tell whether images have labels: files in no class folder, and images alone, have none."""
    if isinstance(source, GivenImages):
        return source.classes is not None
    path = Path(source)
    if labels is not None:
        return True
    if path.is_dir():
        return not naming.unlabelled_files(part.folder or path)
    arrays = npz_arrays(path)
    named = find_arrays(arrays, part.split) or find_arrays(arrays, "")
    return not arrays or (named is not None and named[1] in arrays)


def count_classes(source: str, part: Part, root: str | None) -> int:
    """Count the classes of a data set without a label file: its folders, or its highest label."""
    path = Path(source)
    if path.is_dir():
        return len({name for _, name in naming.folder_pairs(part.folder or path)})
    labels = _read_arrays(source, part, root).labels
    if isinstance(labels, LabelTable):
        return int(labels.values.shape[1])
    if kind_of(labels) != CLASSES:
        raise DataError(f"{part.data}: holds masks; state the number of classes")
    count = npz_classes(path) if path.is_file() else 0
    return max(count, 1 + max(labels))


def _read_arrays(
    source: str, part: Part, root: str | None, labelled: bool = True
) -> FileImages | ArrayImages:
    """Read a data set that is no folder of images."""
    if isinstance(source, GivenImages):
        return source.open(labelled)
    path = Path(source)
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path, part.split, labelled)
    if path.is_file():
        raise DataError(f"{path}: not a .npz file; give the directory that holds the images")
    if path.exists():
        raise DataError(f"{path} is neither a file nor a directory")
    if is_generated(source):
        return read_generated(source, part.split)
    return read_torchvision(source, Path(root or "."), part.split)


def _read_folder(
    root: Path, labels: str | None, n_classes: int | None, columns: Sequence[str]
) -> tuple[FileImages, list[str]]:
    """Read class folders, images with masks, or the files that a label file lists."""
    if labels is not None and labels != INDICES and Path(labels).is_dir():
        images, masks, problems = pair_masks(root, Path(labels), root)
        return FileImages(images, masks, root), problems
    if labels is None and has_masks(root):
        images, masks, problems = read_mask_folders(root)
        return FileImages(images, masks, root), problems
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
    if columns or has_label_columns(Path(labels)):
        return _read_columns(root, Path(labels), n_classes, columns)
    rows = naming.listed_rows(Path(labels))
    naming.check_inside(root, rows, labels)
    if all(_exists(root / name, Path.is_dir) for name, _ in rows):
        pairs = naming.folder_pairs(root)
        known = naming.class_map(Path(labels), n_classes)
        numbers = naming.map_classes([name for _, name in pairs], known, labels)
        return FileImages([file for file, _ in pairs], numbers, root), []
    there, missing = _find_files(root, (name for name, _ in rows), labels)
    pairs = [(root / name, label) for name, label in rows if there[name]]
    return _files(root, pairs, naming.listed_indices({x for _, x in pairs}, n_classes)), missing


def _read_columns(
    root: Path, listing: Path, n_classes: int | None, columns: Sequence[str]
) -> tuple[FileImages, list[str]]:
    """Read the files of a CSV file with one column for each class."""
    names, table = read_label_columns(listing, n_classes, columns)
    naming.check_inside(root, [(name, "") for name in names], str(listing))
    if not _exists(root / names[0], Path.exists) and names[0].startswith(f"{root.resolve().name}/"):
        # Paths from the folder above, as those of CheXpert.
        names = [name.partition("/")[2] for name in names]
    there, missing = _find_files(root, names, str(listing))
    kept = [place for place, name in enumerate(names) if there[name]]
    labels = LabelTable(table.values[kept], table.names)
    return FileImages([root / names[place] for place in kept], labels, root), missing


def _find_files(root: Path, names: Iterable[str], labels: str) -> tuple[dict[str, bool], list[str]]:
    """Tell which listed files are there, and name those that are missing.

    What is there but no regular file is refused where it is read.
    """
    there = {name: _exists(root / name, Path.exists) for name in dict.fromkeys(names)}
    missing = [
        f"{printable(str(root / name))[:_LONGEST_NAME]}: listed in {labels} but missing"
        for name, found in there.items()
        if not found
    ]
    return there, missing


_LONGEST_NAME = 200


def _exists(path: Path, test: Callable[[Path], bool]) -> bool:
    """Ask a question about a path that a file names; no file has the names that cannot be."""
    try:
        return test(path)
    except (OSError, ValueError):
        return False


def _files(root: Path, pairs: Sequence[tuple[Path, str]], known: Mapping[str, int]) -> FileImages:
    return FileImages([file for file, _ in pairs], [known[name] for _, name in pairs], root)
