"""Masks in files: a folder of images beside one of masks, or one folder for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from filtersurgeon.data.kinds import VOID, is_full_scale
from filtersurgeon.data.labels import IMAGE_SUFFIXES, entries_below
from filtersurgeon.data.opening import open_image
from filtersurgeon.errors import DataError

if TYPE_CHECKING:
    import numpy as np

IMAGE_FOLDERS = ("images", "image", "imgs")
MASK_FOLDERS = ("masks", "mask", "annotations", "segmentations")
_ENDINGS = ("", "_mask", "_masks", "_seg", "_segmentation", "_label", "_gt")
_SAMPLE = 32


@dataclass(frozen=True)
class MaskFiles:
    """Masks in files.

    Attributes:
        paths: one file for each image; or several with one instance each, which are merged into
            class 1.
        root: the folder that names are relative to.
        merged: whether they are merged.
    """

    paths: Sequence[tuple[Path, ...]]
    root: Path
    merged: bool = False
    ndim = 3

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Read a mask, (height, width) bytes: a class, or 255 where a pixel does not count.

        Raises:
            DataError: a file cannot be read, or is no mask.
        """
        import numpy as np

        if not self.merged:
            path = self.paths[index][0]
            return self._scaled(self._read(path), path)
        parts = [self._read(path) > 0 for path in self.paths[index]]
        if len({part.shape for part in parts}) > 1:
            raise DataError(f"{self._name(self.paths[index][0])}: the masks differ in size")
        return np.any(parts, axis=0).astype(np.uint8)

    def stamp(self, index: int) -> bytes:
        """Give the sizes and times of the files of a mask."""
        found = (path.stat() for path in self.paths[index])
        return " ".join(f"{each.st_size} {each.st_mtime_ns}" for each in found).encode()

    @cached_property
    def full_scale(self) -> bool:
        """Whether the masks are white on black, as a look at some of them says."""
        import numpy as np

        step = max(1, len(self.paths) // _SAMPLE)
        found: set[int] = set()
        for path, *_ in self.paths[::step]:
            try:
                found |= set(np.unique(self._read(path)).tolist())
            except DataError:
                continue  # reported where it is used, or left out by then
        return is_full_scale(np.array(sorted(found)))

    def _scaled(self, values: np.ndarray, path: Path) -> np.ndarray:
        import numpy as np

        if self.full_scale:
            if not np.isin(values, (0, VOID)).all():
                other = int(values[(values != 0) & (values != VOID)][0])
                raise DataError(
                    f"{self._name(path)}: holds {other}, and other masks of the data set only 0 "
                    "and 255; write the same class in all"
                )
            return (values == VOID).astype(np.uint8)
        if values.max(initial=0) > VOID:
            raise DataError(
                f"{self._name(path)}: holds {values.max()}; classes are 0 to {VOID - 1}"
            )
        return values.astype(np.uint8)

    def _read(self, path: Path) -> np.ndarray:
        import numpy as np

        name = self._name(path)
        values = np.asarray(open_image(path, name))
        if values.dtype == bool:
            values = values.astype(np.uint8)
        if values.ndim == 3:
            colours = values[..., :3] if values.shape[-1] > 2 else values[..., :1]
            if self.merged:
                return colours.max(-1)
            if (colours != colours[..., :1]).any():
                raise DataError(
                    f"{name}: a mask in colours; write the index of the class in each pixel, "
                    "as a grey or palette image"
                )
            values = colours[..., 0]
        return values

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else str(path)


Pairs = tuple[list[Path], MaskFiles, list[str]]
"""Images, their masks, and what is wrong with others."""


def mask_folders(root: Path) -> tuple[Path, Path] | None:
    """Find the folders of images and of masks in a folder; None if it has none."""
    found = [
        next((root / name for name in names if (root / name).is_dir()), None)
        for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    ]
    return (found[0], found[1]) if found[0] and found[1] else None


def instance_folders(root: Path) -> list[Path]:
    """List the folders of single images, each with its masks; none if there are no such folders."""
    folders = sorted(x for x in root.iterdir() if x.is_dir() and x.name[:1] != ".")
    return folders if folders and any(map(mask_folders, folders)) else []


def has_masks(root: Path) -> bool:
    """Tell whether a folder holds images with masks."""
    return mask_folders(root) is not None or bool(instance_folders(root))


def read_mask_folders(root: Path) -> Pairs:
    """Read images and masks, in either layout.

    Either ``images/NAME.png`` beside ``masks/NAME.png``, or ``NAME/images/NAME.png`` beside
    ``NAME/masks/*.png``, the masks of single instances, as in BBBC038.

    Raises:
        DataError: there are no images with masks.
    """
    pair = mask_folders(root)
    if pair is not None:
        return pair_masks(*pair, root)
    images: list[Path] = []
    masks: list[tuple[Path, ...]] = []
    problems = []
    for folder in instance_folders(root):
        found = mask_folders(folder)
        parts = image_files(found[1]) if found else []
        pictures = image_files(found[0]) if found else []
        if len(pictures) == 1 and parts:
            images += pictures
            masks.append(tuple(parts))
        else:
            what = "no masks" if len(pictures) == 1 or not found else f"{len(pictures)} images"
            problems.append(f"{folder.name}: {what}")
    return _checked(images, MaskFiles(masks, root, merged=True), problems, root)


def pair_masks(images: Path, masks: Path, root: Path) -> Pairs:
    """Pair the images of a folder with the masks of another, by their names.

    Args:
        images: its images may lie deeper.
        masks: a mask has the place and the name of its image, its ending may differ, and the name
            may end in ``_mask`` and the like.
        root: the folder that names are relative to.

    Raises:
        DataError: there are no images with masks.
    """
    known: dict[str, Path] = {}
    for path in image_files(masks):
        known.setdefault(_stem(path, masks), path)
    found: list[Path] = []
    paired: list[tuple[Path, ...]] = []
    problems = []
    for path in image_files(images):
        stem = _stem(path, images)
        mask = next((known[stem + x] for x in _ENDINGS if stem + x in known), None)
        if mask is None:
            problems.append(f"{path.relative_to(images)}: no mask of that name in {masks}")
        else:
            found.append(path)
            paired.append((mask,))
    return _checked(found, MaskFiles(paired, root), problems, images)


def _checked(images: list[Path], masks: MaskFiles, problems: list[str], root: Path) -> Pairs:
    if not images:
        first = f" ({problems[0]})" if problems else ""
        raise DataError(f"{root}: no images with masks{first}")
    return images, masks, problems


def _stem(path: Path, root: Path) -> str:
    return str(path.relative_to(root).with_suffix(""))


def image_files(root: Path) -> list[Path]:
    """List the image files below a folder, sorted."""
    return sorted(path for path in entries_below(root) if path.suffix.lower() in IMAGE_SUFFIXES)


def check_size(values: np.ndarray, height: int, width: int) -> None:
    """Refuse a mask of another size than its image; raises DataError."""
    if values.shape != (height, width):
        raise DataError(
            f"the mask has {values.shape[1]}x{values.shape[0]} pixels and the image "
            f"{width}x{height}; give masks of the size of their images"
        )
