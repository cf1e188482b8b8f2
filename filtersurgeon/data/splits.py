"""Which part of a data set is read: train to choose weights, test to measure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from filtersurgeon.data.given import GivenImages
from filtersurgeon.data.sources import find_arrays, npz_arrays
from filtersurgeon.errors import DataError

TRAIN, TEST = "train", "test"
SPLITS = (TEST, TRAIN)
FIT, MEASURE = "fit", "measure"
"""What images are for: to choose or change weights, or to measure what a network does."""

_DEFAULT = {FIT: TRAIN, MEASURE: TEST}
# In this order: where a folder holds test and val, measuring reads test.
_NAMES = {TRAIN: ("train", "training"), TEST: ("test", "testing", "val", "valid", "validation")}


@dataclass(frozen=True)
class Part:
    """The images of a data set that are read.

    Attributes:
        data: name of the data set, without its folder.
        split: ``train`` or ``test``; empty where the data set has one part whose name does not
            tell.
        use: ``fit`` or ``measure``.
        other: whether the data set has another split.
        stated: whether the split was asked for.
        folder: the folder of the split, where a folder holds one per split.
    """

    data: str
    split: str
    use: str
    other: bool = False
    stated: bool = False
    folder: Path | None = None

    @property
    def warning(self) -> str:
        """What a history should say of weights chosen with these images; empty if nothing."""
        return warning_of(self.described()) if self.use == FIT else ""

    def described(self) -> dict[str, str]:
        """Name the data set, without a path, and its split where that is known."""
        return {"name": self.data, **({"split": self.split} if self.split else {})}

    def notes(self) -> list[str]:
        """Say which split is read if nobody asked for it; warn of the test split to fit."""
        if self.warning:
            return [f"warning: {self.warning}; accuracy on that split will read too high"]
        if self.other and not self.stated:
            return [f"reads the {self.split} split of {self.data}"]
        return []


def choose_part(source: str, split: str | None, use: str, labels: str | None = None) -> Part:
    """Decide which images of a data set are read. This is the only place that decides it.

    Args:
        source: a folder, a ``.npz`` file, or the name of a data set that has both splits.
        split: the one that was asked for, or None.
        use: ``fit`` reads the train split by default, ``measure`` the test split. A data set with
            one part gives that part.
        labels: a label file; files are then listed there, not found in folders of splits.

    Raises:
        DataError: the split that was asked for is not there.
    """
    if isinstance(source, GivenImages):
        return Part(source, split or "", use, stated=split is not None)
    path = Path(source)
    found = _splits_of(path, labels)
    name = path.resolve().name if path.exists() else source
    if not found:
        return Part(name, split or _split_of_name(path), use, stated=split is not None)
    chosen = split or (_DEFAULT[use] if _DEFAULT[use] in found else next(iter(found)))
    if chosen not in found:
        raise DataError(f"{source}: has no {chosen} split, only {' and '.join(found)}")
    return Part(name, chosen, use, len(found) > 1, split is not None, found[chosen])


def warning_of(data: Mapping[str, str]) -> str:
    """Say what is wrong with weights that were chosen with these images, as a history has them."""
    if data.get("split") != TEST:
        return ""
    return f"weights are scored or fitted with the test split of {data.get('name', 'the data')}"


def _splits_of(path: Path, labels: str | None) -> dict[str, Path | None]:
    """Give the splits that a data set has, with the folder of each; none if it has one part."""
    if path.is_dir():
        return {} if labels else dict(_folders(path))
    if not path.exists():
        return dict.fromkeys(SPLITS)
    arrays = npz_arrays(path)
    found = dict.fromkeys(split for split in SPLITS if find_arrays(arrays, split))
    # Arrays without a split in their names stand for the split that is missing.
    return dict.fromkeys(SPLITS) if found and find_arrays(arrays, "") else found


def _folders(root: Path) -> dict[str, Path]:
    """Find the folders of splits, each of which holds class folders."""
    inside = [entry for entry in root.iterdir() if entry.is_dir() and entry.name[:1] != "."]
    known = {name for names in _NAMES.values() for name in names}
    if not inside or any(
        entry.name not in known or any(not deeper.is_dir() for deeper in _visible(entry))
        for entry in inside
    ):
        return {}
    return {
        split: root / name
        for split in SPLITS
        for name in reversed(_NAMES[split])
        if (root / name).is_dir()
    }


def _visible(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name[:1] != "."]


def _split_of_name(path: Path) -> str:
    """Tell the split from a name such as ``val``, ``test.npz`` or ``train_10k.npz``."""
    if not path.exists():
        return ""
    first = re.match(r"[a-z]*", path.resolve().stem.lower())
    word = first[0] if first else ""
    return next((split for split, names in _NAMES.items() if word in names), "")
