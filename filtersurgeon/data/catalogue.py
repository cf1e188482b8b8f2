"""Torchvision's datasets by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from filtersurgeon.data.dashes import NAME
from filtersurgeon.data.sources import ArrayImages, FileImages, array_images
from filtersurgeon.errors import DataError, near_misses


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
        raise DataError(
            f"{name}: no such file, folder or dataset{near_misses(name, [*TORCHVISION, NAME])}"
        )
    choice = {known.option: known.train if split == "train" else known.test}
    if known.cls != "ImageNet":
        choice["download"] = False
    try:
        found = getattr(datasets, known.cls)(root=str(root), **choice)
    except (RuntimeError, OSError, ImportError) as problem:
        raise DataError(
            f"{name}: not found in {root} ({str(problem).splitlines()[0]})"
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
