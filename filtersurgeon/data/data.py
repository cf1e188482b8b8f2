"""Opening labelled images for a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from filtersurgeon.data.generated import is_generated
from filtersurgeon.data.given import PreparedImages, as_source
from filtersurgeon.data.images import LabelledImages, MaskFitting, as_tensor
from filtersurgeon.data.kinds import CLASSES, MASKS, check_kind, kind_of
from filtersurgeon.data.preprocess import (
    Augmentation,
    Preprocessing,
    Transform,
    array_transform,
    image_transform,
    mask_transform,
)
from filtersurgeon.data.reading import (
    INDICES,
    channel_note,
    count_classes,
    label_kind,
    read_source,
    readable,
    within_range,
)
from filtersurgeon.data.sources import ArrayImages, ImageSource
from filtersurgeon.data.splits import FIT, MEASURE, SPLITS, TEST, Part, choose_part
from filtersurgeon.errors import DataError, OptionError, near_misses


@dataclass(frozen=True)
class DataSpec:
    """A selection of labelled images.

    Attributes:
        source: a folder of class folders, a folder with ``labels``, a folder with the folders
            ``images`` and ``masks``, a ``.npz`` file, the name of a torchvision dataset below
            ``root``, or a generated data set: ``dashes``, ``findings`` or ``cells``
            (``data/generated.py``). Or images in memory: an array or a tensor, a pair
            ``(images, labels)``, a data set of torch or a ``DataLoader``, which is read once. Bytes
            are prepared like the images of a file; real numbers go in as they are. Labels are one
            class for each image ``(n,)``; one label for each class ``(n, classes)``: 1, 0, and -1
            or NaN where it is unknown; or masks ``(n, height, width)`` of classes, 255 where a
            pixel does not count.
        split: ``test`` or ``train``, where the source has both; None reads train to choose weights
            and test to measure (``data/splits.py``).
        labels: CSV or JSON file that labels the files of a folder, or maps the classes of the
            source to the network's outputs; ``indices`` says that they are those outputs. A CSV
            file may have one column for each class. A folder holds masks of the same names.
        root: where torchvision finds its datasets.
        subset: use only this many images, drawn without replacement.
        seed: of that drawing, and of augmentation.
        skip_bad: leave out unreadable and mislabelled images instead of stopping at them.
        columns: which columns of a CSV file are classes, in the order of the outputs; by default
            all that hold 0, 1, and -1, U or nothing.
    """

    source: Any
    split: str | None = None
    labels: str | None = None
    root: str | None = None
    subset: int | None = None
    seed: int = 0
    skip_bad: bool = False
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", as_source(self.source))
        object.__setattr__(self, "columns", tuple(self.columns or ()))


def open_data(
    spec: DataSpec,
    preprocessing: Preprocessing,
    n_classes: int,
    augmentation: Augmentation | None = None,
    *,
    use: str = MEASURE,
    labelled: bool = True,
    kinds: Sequence[str] = (CLASSES,),
) -> LabelledImages:
    """Open labelled images for a network.

    Args:
        spec: which images.
        preprocessing: what the network expects of them.
        n_classes: outputs of the network.
        augmentation: random changes, for training.
        use: ``fit`` to choose weights with the images, ``measure`` to evaluate them.
        labelled: whether the labels matter; if not, they need not be those of the network.
        kinds: the kinds of labels that the caller takes (``data/kinds.py``).

    Returns:
        The dataset; its ``notes`` tell of the split, of conversions and of left-out images.

    Raises:
        DataError: nothing there, classes that are not the network's, labels of another kind, a
            label out of range or a file that is missing (left out with ``skip_bad``).
        OptionError: a split, labels or a root that the source cannot have.
    """
    _check_spec(spec)
    part = part_of(spec, use)
    known = n_classes if labelled else None
    source, problems = read_source(spec.source, part, known, spec.labels, spec.root, spec.columns)
    check_kind(kind_of(source.labels), kinds, part.data)
    good, mislabelled = within_range(source, known)
    if spec.skip_bad:
        good, unreadable = readable(source, good, preprocessing.check)
        problems += mislabelled + unreadable
    elif problems or mislabelled:
        problems += mislabelled
        raise DataError(
            f"{problems[0]}{_and_more(len(problems) - 1)}; {_remedy(source, mislabelled)}"
        )
    if not good:
        raise DataError(f"{spec.source}: no usable images")
    notes = [*part.notes(), *(f"left out: {problem}" for problem in problems)]
    if not isinstance(source, PreparedImages):
        notes += channel_note(source, good, preprocessing.channels)
    chosen = _draw(good, spec.subset, spec.seed)
    masks = kind_of(source.labels) == MASKS
    if masks and not isinstance(source, ArrayImages):
        # A crop would leave out parts of a mask.
        preprocessing = replace(preprocessing, crop_pct=1.0)
    transform, direct, fitted = _choose_transform(source, preprocessing, augmentation)
    return LabelledImages(
        source,
        chosen,
        transform,
        preprocessing.channels,
        direct=direct,
        random_seed=None if augmentation is None else spec.seed,
        notes=notes,
        part=part,
        masks=MaskFitting(None if direct else mask_transform(fitted, augmentation), known)
        if masks
        else None,
    )


def part_of(spec: DataSpec, use: str = MEASURE) -> Part:
    """Tell which part of a data set is read for a use."""
    return choose_part(spec.source, spec.split, use, spec.labels)


def kind_of_labels(spec: DataSpec, use: str = MEASURE) -> str:
    """Tell the kind of the labels of a data set, see ``data/kinds.py``."""
    _check_spec(spec)
    return label_kind(spec.source, part_of(spec, use), spec.labels, spec.root, spec.columns)


def find_held_out(spec: DataSpec) -> DataSpec | None:
    """Give the test images that come with training images, or None where none do."""
    if not part_of(replace(spec, split=None)).other:
        return None
    return replace(spec, split=TEST, subset=None)


def new_head(spec: DataSpec, n_classes: int, use: str = FIT) -> int | None:
    """Tell how many outputs a new head for a data set has.

    Args:
        spec: the images that it is trained with.
        n_classes: outputs of the network.
        use: what the images are for.

    Returns:
        The number of classes; None where the classes are the network's own, or a label file says
        which they are.
    """
    if spec.labels is not None:
        return None
    part = part_of(spec, use)
    try:
        read_source(spec.source, part, n_classes, None, spec.root, spec.columns)
    except DataError:
        count = count_classes(spec.source, part, spec.root)
        return None if count == n_classes else count
    return None


def _check_spec(spec: DataSpec) -> None:
    """Refuse words that are unknown or would do nothing."""
    if spec.split not in (None, *SPLITS):
        raise OptionError(f"split {spec.split!r} is unknown{near_misses(spec.split, SPLITS)}")
    masks = Path(str(spec.labels)).is_dir() and Path(spec.source).is_dir()
    if spec.labels not in (None, INDICES) and not masks and not Path(str(spec.labels)).is_file():
        what = "not a regular file" if os.path.lexists(str(spec.labels)) else "no such file"
        raise OptionError(
            f"{spec.labels}: {what}; labels belong to files of a directory, or map classes"
        )
    if spec.columns and (spec.labels is None or masks):
        raise OptionError("`columns` are those of a CSV file; name the file with `labels`")
    if spec.root is not None and is_generated(spec.source):
        name = spec.source.partition(":")[0]
        raise OptionError(f"root is where torchvision datasets lie, and {name} are made")
    if spec.root is not None and Path(spec.source).exists():
        raise OptionError(f"root is where torchvision datasets lie, and {spec.source} is a path")


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
) -> tuple[Transform, bool, Preprocessing]:
    """Choose between timm's transform and the direct one for arrays of the right size.

    Pixels that already have the network's size go in as they are: a crop fraction is advice for
    photographs and would blur small pictures.

    Returns:
        The transform, whether it takes arrays, and what it was made for.
    """
    if isinstance(source, PreparedImages):
        if augmentation is not None:
            raise OptionError("`augmentation` needs images as bytes, not as real numbers")
        return as_tensor, True, preprocessing
    if not isinstance(source, ArrayImages):
        return image_transform(preprocessing, augmentation), False, preprocessing
    height, width, channels = source.pixels.shape[1:]
    size = preprocessing.input_size or (preprocessing.channels, height, width)
    sized = replace(preprocessing, input_size=size)
    if augmentation is None and size == (channels, height, width):
        return array_transform(sized), True, sized
    if size[1:] == (height, width):
        sized = replace(sized, crop_pct=1.0)
    return image_transform(sized, augmentation), False, sized


def _remedy(source: ImageSource, mislabelled: Sequence[str]) -> str:
    """Say what helps against the first problem."""
    if not mislabelled:
        return "`skip_bad` leaves such out"
    sensible = min(source.labels) >= 0 and max(source.labels) < _MOST_CLASSES
    fit = f"fsurgeon tune --classes {1 + max(source.labels)}, " if sensible else ""
    return f"use {fit}a map with `labels`, or `skip_bad`"


_MOST_CLASSES = 1_000_000


def _and_more(count: int) -> str:
    """Say that there are more problems than the one told."""
    return f" (and {count} more)" if count else ""


@dataclass(frozen=True)
class ImageRun:
    """The images, device and batch size of an analysis that runs the network.

    Attributes:
        data: which images.
        preprocess: values that replace those of the checkpoint's ``pretrained_cfg``.
        workers: processes that read images ahead.
        device: torch's name of the device; ``auto`` is a GPU if there is one.
        tell: told what was converted or left out.
    """

    data: DataSpec
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 0
    device: str = "auto"
    tell: Callable[[str], None] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", as_spec(self.data))


def as_spec(data: Any) -> DataSpec:
    """Give a specification of images; their source alone, or images in memory, stand for one."""
    return data if isinstance(data, DataSpec) else DataSpec(data)


def as_run(data: Any) -> ImageRun:
    """Give a run; images alone, or their source alone, stand for one with every default."""
    return data if isinstance(data, ImageRun) else ImageRun(as_spec(data))
