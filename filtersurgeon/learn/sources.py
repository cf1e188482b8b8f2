"""Where labelled images come from: files, arrays, torchvision's datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from filtersurgeon.errors import DataError, near_misses

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


class ImageSource(Protocol):
    """Labelled images that can be read one at a time."""

    @property
    def labels(self) -> Sequence[int]:
        """Class index of every image."""

    def image(self, index: int) -> Image:
        """Read one image."""

    def name(self, index: int) -> str:
        """Name one image as messages should."""


@dataclass(frozen=True)
class FileImages:
    """Image files with labels.

    Attributes:
        paths: one file per image.
        labels: its class index.
        root: the folder that names are told relative to.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
    root: Path

    def image(self, index: int) -> Image:
        """Decode one file."""
        from PIL import Image

        with Image.open(self.paths[index]) as opened:
            opened.load()
            return opened

    def name(self, index: int) -> str:
        """Give the path below the root."""
        path = self.paths[index]
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


@dataclass(frozen=True)
class ArrayImages:
    """Images in one array.

    Attributes:
        pixels: (images, height, width, channels), bytes or floats in 0..1.
        labels: class index of each.
        title: how messages call the array.
    """

    pixels: np.ndarray
    labels: Sequence[int]
    title: str

    def image(self, index: int) -> Image:
        """Make a PIL image of one entry."""
        import numpy as np
        from PIL import Image

        values = self.pixels[index]
        if values.dtype != np.uint8:
            values = np.rint(values * 255).astype(np.uint8)
        return Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)

    def name(self, index: int) -> str:
        """Give the title and the position."""
        return f"image {index} of {self.title}"


def read_npz(path: Path, split: str) -> ArrayImages:
    """Read ``x_SPLIT`` and ``y_SPLIT``, or ``x`` and ``y``, of a ``.npz`` file.

    Raises:
        DataError: not such a file, or its arrays are no labelled images.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as found:
            keys = (f"x_{split}", f"y_{split}") if f"x_{split}" in found else ("x", "y")
            missing = [key for key in keys if key not in found]
            if missing:
                raise DataError(
                    f"{path}: no array {missing[0]!r}{near_misses(missing[0], found.files)}"
                )
            pixels, labels = found[keys[0]], found[keys[1]]
    except (OSError, ValueError, zipfile.BadZipFile) as problem:
        raise DataError(f"{path}: not a .npz file of plain arrays ({problem})") from problem
    return array_images(pixels, labels, path.name)


def array_images(pixels: np.ndarray, labels: Any, title: str) -> ArrayImages:
    """Check arrays and put their channels last.

    Args:
        pixels: (images, height, width), with channels first, last or absent.
        labels: one integer per image.
        title: how messages call the array.

    Raises:
        DataError: shapes or values are not those of labelled images.
    """
    import numpy as np

    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim == 4 and pixels.shape[-1] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.ndim != 4 or pixels.shape[-1] not in (1, 3):
        raise DataError(f"{title}: images of shape {pixels.shape} are neither grey nor colour")
    if len(pixels) == 0:
        raise DataError(f"{title}: holds no images")
    flat = np.asarray(labels).reshape(-1)
    if len(flat) != len(pixels) or not np.issubdtype(flat.dtype, np.integer):
        raise DataError(
            f"{title}: {len(pixels)} images need as many integer labels,"
            f" not {flat.shape} of {flat.dtype}"
        )
    if pixels.dtype != np.uint8 and (pixels.min() < 0 or pixels.max() > 1):
        raise DataError(f"{title}: pixels must be bytes or lie in 0..1")
    return ArrayImages(pixels, flat.astype(np.int64).tolist(), title)


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
        raise DataError(f"{name}: no such file, folder or dataset{near_misses(name, TORCHVISION)}")
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
