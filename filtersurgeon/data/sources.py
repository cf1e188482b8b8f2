"""Where labelled images come from: files and arrays."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filtersurgeon.data.kinds import masks_of, table_of
from filtersurgeon.data.opening import open_image
from filtersurgeon.errors import DataError, near_misses

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image


class ImageSource(Protocol):
    """Labelled images that can be read one at a time."""

    @property
    def labels(self) -> Any:
        """The label of every image; see ``data/kinds.py`` for those that are no class index."""

    def image(self, index: int) -> Image:
        """Read one image."""

    def name(self, index: int) -> str:
        """Name one image as messages should."""


@dataclass(frozen=True)
class FileImages:
    """Image files with labels.

    Attributes:
        paths: one file per image.
        labels: its class index, or what ``data/kinds.py`` says.
        root: the folder that names are relative to.
    """

    paths: Sequence[Path]
    labels: Any
    root: Path

    def image(self, index: int) -> Image:
        """Decode one file."""
        return open_image(self.paths[index], self.name(index))

    def name(self, index: int) -> str:
        """Give the path below the root."""
        path = self.paths[index]
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


@dataclass(frozen=True)
class ArrayImages:
    """Images in one array.

    Attributes:
        pixels: (images, height, width, channels), bytes or floats in 0..1.
        labels: class index of each, or what ``data/kinds.py`` says.
        title: how messages call the array.
    """

    pixels: np.ndarray
    labels: Any
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


_PIXELS = ("x", "images", "image", "X", "data", "imgs")
_LABELS = ("y", "labels", "label", "Y", "targets", "target", "masks")
_UNNAMED = ("arr_0", "arr_1")
"""What ``np.savez`` calls arrays that are given no names."""
_SPLIT_NAMES = {"train": ("train",), "test": ("test", "val")}


def find_arrays(arrays: Collection[str], split: str) -> tuple[str, str] | None:
    """Name the arrays of images and labels of a split in a ``.npz`` file.

    They are called as Keras does, ``x_train``, or as MedMNIST does, ``train_images``.

    Args:
        arrays: the names of all.
        split: ``train`` or ``test``; an empty one for arrays that name none.

    Returns:
        Both names, the latter perhaps of no array; None if there are no images.
    """
    forms = ("{0}_{1}", "{1}_{0}") if split else ("{0}",)
    for part in _SPLIT_NAMES.get(split, (split,)):
        for form in forms:
            names = {word: form.format(word, part) for word in (*_PIXELS, *_LABELS)}
            pixels = next((names[word] for word in _PIXELS if names[word] in arrays), None)
            if pixels is not None:
                labels = (names[word] for word in _LABELS if names[word] in arrays)
                return pixels, next(labels, names["y"])
    return _UNNAMED if not split and _UNNAMED[0] in arrays else None


def read_npz(path: Path, split: str, labelled: bool = True) -> ArrayImages:
    """Read the images and labels of a split of a ``.npz`` file, or of one without splits.

    Args:
        path: the file.
        split: ``train`` or ``test``.
        labelled: the labels matter; if not, they may be missing.

    Raises:
        DataError: not such a file, or its arrays are no labelled images.
    """
    from filtersurgeon.checkpoint.arrays import array_names, read_arrays

    try:
        found = array_names(path)
        keys: Sequence[str] = find_arrays(found, split) or find_arrays(found, "") or ("x", "y")
        if not labelled and keys[1] not in found:
            keys = keys[:1]
        missing = [key for key in keys if key not in found]
        if missing:
            what = "images" if missing[0] == keys[0] else "labels"
            raise DataError(
                f"{path}: no array {missing[0]!r} of {what}{near_misses(missing[0], found)}"
            )
        pixels, *labels = read_arrays(path, keys)
    except (OSError, ValueError) as problem:
        raise DataError(f"{path}: not a .npz file of plain arrays ({problem})") from problem
    return array_images(pixels, labels[0] if labels else _no_labels(pixels), path.name)


def _no_labels(pixels: np.ndarray) -> np.ndarray:
    import numpy as np

    return np.zeros(len(pixels) if pixels.ndim else 0, np.int64)


def npz_arrays(path: Path) -> set[str]:
    """Name the arrays of a ``.npz`` file; of anything else, none."""
    from filtersurgeon.checkpoint.arrays import array_names

    if path.suffix != ".npz" or not path.is_file():  # a pipe could be waited for for ever
        return set()
    try:
        return set(array_names(path))
    except (OSError, ValueError):
        return set()


def npz_classes(path: Path) -> int:
    """Count the classes of a ``.npz`` file, both splits together: its highest label and one."""
    from filtersurgeon.checkpoint.arrays import read_arrays

    arrays = npz_arrays(path)
    named = (find_arrays(arrays, split) for split in (*_SPLIT_NAMES, ""))
    keys = sorted({labels for _, labels in filter(None, named)} & arrays)
    try:
        labels = read_arrays(path, keys)
    except (OSError, ValueError) as problem:
        raise DataError(f"{path}: not a .npz file of plain arrays ({problem})") from problem
    for key, found in zip(keys, labels, strict=True):
        if not _are_integers(found):
            raise DataError(f"{path}: {key} should hold integer labels, not {found.dtype}")
    return 1 + max((int(found.max()) for found in labels if found.size), default=-1)


def _are_integers(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "iu"


def array_images(pixels: np.ndarray, labels: Any, title: str) -> ArrayImages:
    """Check arrays and put their channels last.

    Args:
        pixels: (images, height, width), with channels first, last or absent.
        labels: for each image one integer, a row with a label for each class, or a mask.
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
    if not pixels.size:
        raise DataError(f"{title}: images of shape {pixels.shape} have no pixels")
    known = array_labels(labels, pixels.shape, title)
    if pixels.dtype != np.uint8:
        # NaN is neither above nor below.
        if pixels.dtype.kind not in "biuf" or not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{title}: pixels must be bytes or lie in 0..1")
        if pixels.dtype not in (np.float16, np.float32, np.float64):  # torch reads no others
            pixels = pixels.astype(np.float32)
    return ArrayImages(pixels, known, title)


def array_labels(labels: Any, shape: Sequence[int], title: str) -> Any:
    """Check the labels of images in one array, and tell their kind by their shape.

    Args:
        labels: (images,) integers; (images, classes) of 0, 1, and -1 or NaN where unknown; or
            (images, height, width) masks.
        shape: of the images, (images, height, width, ...).
        title: how messages call the array.

    Returns:
        A list of class indices, a ``LabelTable`` or a ``MaskStack``.

    Raises:
        DataError: they do not go with the images.
    """
    import numpy as np

    found = np.asarray(labels)
    several = found.ndim == 2 and (found.shape[1] > 1 or found.dtype.kind == "f")
    one_each = found.ndim > 1 and len(found) == shape[0]
    if one_each and several:
        return table_of(found, title)
    if one_each and found.ndim > 2:
        masks = masks_of(found, title)
        if masks.values.shape[1:] != tuple(shape[1:3]):
            rows, columns = masks.values.shape[1:]
            raise DataError(
                f"{title}: masks of {columns}x{rows} pixels for images of {shape[2]}x{shape[1]}; "
                "give masks of the size of their images"
            )
        return masks
    flat = found.reshape(-1)
    if len(flat) != shape[0] or not _are_integers(flat):
        raise DataError(
            f"{title}: {shape[0]} images need as many integer labels,"
            f" not {flat.shape} of {flat.dtype}"
        )
    return flat.tolist()
