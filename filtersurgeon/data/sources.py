"""Where labelled images come from: files and arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filtersurgeon.data.opening import open_image
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
        root: the folder that names are relative to.
    """

    paths: Sequence[Path]
    labels: Sequence[int]
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


def read_npz(path: Path, split: str, labelled: bool = True) -> ArrayImages:
    """Read ``x_SPLIT`` and ``y_SPLIT``, or ``x`` and ``y``, of a ``.npz`` file.

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
        named = f"x_{split}" in found
        keys: tuple[str, ...] = (f"x_{split}", f"y_{split}") if named else ("x", "y")
        if not labelled and keys[1] not in found:
            keys = keys[:1]
        missing = [key for key in keys if key not in found]
        if missing:
            raise DataError(f"{path}: no array {missing[0]!r}{near_misses(missing[0], found)}")
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

    keys = sorted(npz_arrays(path) & {"y", "y_train", "y_test"})
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
    if not pixels.size:
        raise DataError(f"{title}: images of shape {pixels.shape} have no pixels")
    flat = np.asarray(labels).reshape(-1)
    if len(flat) != len(pixels) or not _are_integers(flat):
        raise DataError(
            f"{title}: {len(pixels)} images need as many integer labels,"
            f" not {flat.shape} of {flat.dtype}"
        )
    if pixels.dtype != np.uint8:
        # NaN is neither above nor below.
        if pixels.dtype.kind not in "biuf" or not (pixels.min() >= 0 and pixels.max() <= 1):
            raise DataError(f"{title}: pixels must be bytes or lie in 0..1")
        if pixels.dtype not in (np.float16, np.float32, np.float64):  # torch reads no others
            pixels = pixels.astype(np.float32)
    return ArrayImages(pixels, flat.astype(np.int64).tolist(), title)
