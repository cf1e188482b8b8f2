"""Opening labelled images for a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from filtersurgeon.errors import DataError, OptionError, near_misses
from filtersurgeon.learn import labels as naming
from filtersurgeon.learn.catalogue import read_torchvision
from filtersurgeon.learn.checks import channel_note, readable, within_range
from filtersurgeon.learn.dashes import is_dashes, read_dashes
from filtersurgeon.learn.images import LabelledImages
from filtersurgeon.learn.preprocess import (
    Augmentation,
    Preprocessing,
    Transform,
    array_transform,
    image_transform,
)
from filtersurgeon.learn.sources import (
    ArrayImages,
    FileImages,
    ImageSource,
    array_images,
    npz_arrays,
    read_npz,
)

SPLITS = ("test", "train")


@dataclass(frozen=True)
class DataSpec:
    """Which labelled images to use.

    Attributes:
        source: a folder of class folders, a folder with ``labels``, a ``.npz`` file, the name of a
            torchvision dataset below ``root``, or ``dashes``, which are made (``learn/dashes.py``).
        split: ``test`` or ``train``, where the source has both.
        labels: CSV or JSON file that labels the files of a folder.
        root: where torchvision finds its datasets.
        subset: use only this many images, drawn without replacement.
        seed: of that drawing, and of augmentation.
        skip_bad: leave out unreadable and mislabelled images instead of stopping at them.
    """

    source: str
    split: str = "test"
    labels: str | None = None
    root: str | None = None
    subset: int | None = None
    seed: int = 0
    skip_bad: bool = False


def open_data(
    spec: DataSpec,
    preprocessing: Preprocessing,
    n_classes: int,
    augmentation: Augmentation | None = None,
) -> LabelledImages:
    """Open labelled images for a network.

    Args:
        spec: which images.
        preprocessing: what the network expects of them.
        n_classes: outputs of the network.
        augmentation: random changes, for training.

    Returns:
        The dataset; its ``notes`` tell of conversions and left-out images.

    Raises:
        DataError: nothing there, a class count that differs from the network's, a label out of
            range or a file that is missing (left out with ``skip_bad``).
        OptionError: a split, labels or a root that the source cannot have.
    """
    _check_spec(spec)
    source, problems = _open_source(spec, n_classes)
    good, mislabelled = within_range(source, n_classes)
    problems += mislabelled
    if spec.skip_bad:
        good, unreadable = readable(source, good)
        problems += unreadable
    elif problems:
        raise DataError(f"{problems[0]}{_and_more(len(problems) - 1)}; --skip-bad leaves such out")
    if not good:
        raise DataError(f"{spec.source}: no usable images")
    notes = [f"left out: {problem}" for problem in problems]
    notes += channel_note(source, good, preprocessing.channels)
    chosen = _draw(good, spec.subset, spec.seed)
    transform, direct = _choose_transform(source, preprocessing, augmentation)
    return LabelledImages(
        source,
        chosen,
        transform,
        preprocessing.channels,
        direct=direct,
        random_seed=None if augmentation is None else spec.seed,
        notes=notes,
    )


def held_out(spec: DataSpec) -> DataSpec | None:
    """Give the test images that come with training images, or None where none do."""
    path = Path(spec.source)
    arrays = npz_arrays(path)
    if path.exists() and not {"x_train", "x_test"} <= arrays:
        return None
    return replace(spec, split="test", subset=None)


def _check_spec(spec: DataSpec) -> None:
    """Refuse words that are unknown or would do nothing."""
    if spec.split not in SPLITS:
        raise OptionError(f"split {spec.split!r} is unknown{near_misses(spec.split, SPLITS)}")
    path = Path(spec.source)
    if spec.labels is not None and not path.is_dir():
        raise OptionError(f"labels belong to a folder of images, and {spec.source} is none")
    if spec.root is not None and is_dashes(spec.source):
        raise OptionError("root is where torchvision datasets lie, and dashes are made")
    if spec.root is not None and path.exists():
        raise OptionError(f"root is where torchvision datasets lie, and {spec.source} is a path")


def _open_source(spec: DataSpec, n_classes: int) -> tuple[ImageSource, list[str]]:
    """Find out what the source is and read its labels; also give what is wrong with them."""
    path = Path(spec.source)
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path, spec.split), []
    if path.is_file():
        raise DataError(f"{path}: not a .npz file; give the folder that holds the images")
    if not path.is_dir() and is_dashes(spec.source):
        return array_images(*read_dashes(spec.source, spec.split), spec.source), []
    if not path.is_dir():
        return read_torchvision(spec.source, Path(spec.root or "."), spec.split), []
    if spec.labels is None:
        pairs = naming.folder_pairs(path)
        known = naming.class_indices((name for _, name in pairs), n_classes)
        files, classes = zip(*pairs, strict=True)
        return FileImages(files, [known[name] for name in classes], path), []
    pairs = naming.listed_pairs(path, Path(spec.labels))
    missing = [
        f"{file}: listed in {spec.labels} but missing" for file, _ in pairs if not file.is_file()
    ]
    pairs = [pair for pair in pairs if pair[0].is_file()]
    written = [label for _, label in pairs]
    if all(label.lstrip("-").isdecimal() for label in written):
        numbers = [int(label) for label in written]
    else:
        known = naming.class_indices(written, n_classes)
        numbers = [known[label] for label in written]
    return FileImages([file for file, _ in pairs], numbers, path), missing


def _draw(indices: list[int], count: int | None, seed: int) -> list[int]:
    """Draw positions without replacement, keeping their order."""
    import numpy as np

    if count is None or count >= len(indices):
        return indices
    if count < 1:
        raise DataError(f"a subset of {count} images is empty; ask for at least 1")
    drawn = np.random.default_rng(seed).choice(len(indices), size=count, replace=False)
    return [indices[position] for position in sorted(drawn.tolist())]


def _choose_transform(
    source: ImageSource, preprocessing: Preprocessing, augmentation: Augmentation | None
) -> tuple[Transform, bool]:
    """Choose between timm's transform and the direct one for arrays of the right size.

    Pixels that already have the network's size go in as they are: a crop fraction is advice for
    photographs and would blur small pictures.
    """
    if not isinstance(source, ArrayImages):
        return image_transform(preprocessing, augmentation), False
    height, width, channels = source.pixels.shape[1:]
    size = preprocessing.input_size or (preprocessing.channels, height, width)
    sized = replace(preprocessing, input_size=size)
    if augmentation is None and size == (channels, height, width):
        return array_transform(sized), True
    if size[1:] == (height, width):
        sized = replace(sized, crop_pct=1.0)
    return image_transform(sized, augmentation), False


def _and_more(count: int) -> str:
    """Say that there are more problems than the one told."""
    return f" (and {count} more)" if count else ""
