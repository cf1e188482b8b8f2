"""The kinds of labels: one class for each image, several labels for each, or masks of classes.

The labels of a source tell their kind. Every part that takes more than classes asks here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import DataError, OptionError, near_misses

if TYPE_CHECKING:
    import numpy as np

CLASSES, MULTILABEL, MASKS = "classes", "multi-label", "masks"
ALL_KINDS = (CLASSES, MULTILABEL, MASKS)

IGNORED = -100
"""Pixels of a mask that do not count, as tensors have them."""
VOID = 255
"""Pixels of a mask that do not count, as files have them."""

NAMED = {CLASSES: "one class for each image", MULTILABEL: "several labels", MASKS: "masks"}
_SHOWN = 4


@dataclass(frozen=True)
class LabelTable:
    """Several labels for each image.

    Attributes:
        values: (images, classes) float32: 1, 0, or NaN where it is unknown.
        names: of the classes; empty if they have none.
    """

    values: np.ndarray
    names: tuple[str, ...] = ()
    ndim = 2

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[index]


@dataclass(frozen=True)
class MaskStack:
    """Masks in one array.

    Attributes:
        values: (images, height, width) bytes: a class, or 255 where a pixel does not count.
    """

    values: np.ndarray
    ndim = 3

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.values[index]


def kind_of(labels: Any) -> str:
    """Tell the kind of the labels of a source."""
    return {2: MULTILABEL, 3: MASKS}.get(getattr(labels, "ndim", 1), CLASSES)


def check_kind(kind: str, taken: Sequence[str], title: str) -> None:
    """Refuse labels of a kind that an analysis does not take.

    Args:
        kind: of the labels.
        taken: the kinds that the analysis takes.
        title: how messages call the data set.

    Raises:
        DataError: the kind is another one.
    """
    if kind not in taken:
        known = " or ".join(NAMED[each] for each in taken)
        raise DataError(f"{title}: the labels are {NAMED[kind]}, and this needs {known}")


def names_of(labels: Any) -> tuple[str, ...]:
    """Give the names of the classes, if the labels have them."""
    return labels.names if isinstance(labels, LabelTable) else ()


def label_digest(labels: Any, index: int) -> bytes:
    """Give bytes that tell one label from another; of mask files their size and time."""
    if kind_of(labels) == CLASSES:
        return str(labels[index]).encode()
    known = getattr(labels, "stamp", None)
    return known(index) if known else labels[index].tobytes()


def table_of(values: Any, title: str, names: tuple[str, ...] = ()) -> LabelTable:
    """Make a table of labels.

    Args:
        values: (images, classes): 1, 0, and -1 or NaN where a label is unknown.
        title: how messages call the data set.
        names: of the classes.

    Raises:
        DataError: another value.
    """
    import numpy as np

    found = np.array(values, np.float32)
    found[found == -1] = np.nan
    wrong = found[~np.isnan(found) & (found != 0) & (found != 1)]
    if wrong.size:
        raise DataError(
            f"{title}: {wrong.flat[0]:g} is no label of a class; write 1, 0, or -1 if unknown"
        )
    return LabelTable(found, names)


def masks_of(values: Any, title: str) -> MaskStack:
    """Make masks of an array.

    Args:
        values: (images, height, width), with an axis of one channel or without: classes from 0; 255
            or a negative number where a pixel does not count. Where there are 0 and 255 alone, 255
            is class 1.
        title: how messages call the data set.

    Raises:
        DataError: other shapes or values.
    """
    import numpy as np

    found = np.asarray(values)
    if found.ndim == 4 and 1 in (found.shape[1], found.shape[-1]):
        found = found[:, 0] if found.shape[1] == 1 else found[..., 0]
    if found.ndim != 3:
        raise DataError(
            f"{title}: masks of shape {found.shape} are not (images, height, width) of classes"
        )
    if found.dtype.kind == "f" and (found != np.rint(found)).any():
        raise DataError(f"{title}: the masks hold fractions; write whole numbers of classes")
    found = np.where(found < 0, VOID, found) if found.dtype.kind in "if" else found
    if found.size and found.max() > VOID:
        raise DataError(f"{title}: a mask holds {int(found.max())}; classes are 0 to {VOID - 1}")
    found = found.astype(np.uint8)
    return MaskStack(_fill(found) if is_full_scale(found) else found)


def is_full_scale(values: np.ndarray) -> bool:
    """Tell whether masks are white on black: 0 and 255 alone."""
    import numpy as np

    return bool((values == VOID).any() and np.isin(values, (0, VOID)).all())


def _fill(values: np.ndarray) -> np.ndarray:
    import numpy as np

    return (values == VOID).astype(np.uint8)


def check_mask(values: np.ndarray, n_classes: int | None) -> None:
    """Refuse a mask with classes that the network does not have.

    Args:
        values: (height, width) bytes.
        n_classes: outputs of the network, of which one alone separates two classes; None if labels
            do not matter.

    Raises:
        DataError: such a class.
    """
    if n_classes is None:
        return
    known = values[values != VOID]
    if known.size and known.max() >= max(n_classes, 2):
        outputs = f"{n_classes} output{'s' * (n_classes != 1)}"
        raise DataError(
            f"the mask holds class {known.max()}, and the network has {outputs} (classes 0 to "
            f"{max(n_classes, 2) - 1}); write {VOID} for pixels that do not count"
        )


_DIGITS = 18


def class_index(target: str | int, n_classes: int, names: Sequence[str] = ()) -> int:
    """Find an output by its index, or by its name.

    Args:
        target: the index or the name.
        n_classes: outputs of the network.
        names: of the classes, where they are known.

    Raises:
        OptionError: there is no such output.
    """
    if str(target) in names:
        return list(names).index(str(target))
    if isinstance(target, int) or target.removeprefix("-").isdecimal():
        # Python does not read numbers of thousands of digits.
        if len(str(target)) <= _DIGITS and 0 <= int(target) < n_classes:
            return int(target)
        if n_classes == 1:
            raise OptionError(f"class {target}: the network has one output; its index is 0")
        raise OptionError(f"class {target} is not among the {n_classes} of the network")
    if not names:
        raise OptionError(f"class {target!r}: the classes have no names here; give its index")
    hint = near_misses(target, names) or f"; there are {', '.join(names[:_SHOWN])}, ..."
    raise OptionError(f"no class is called {target!r}{hint}")
