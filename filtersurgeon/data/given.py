"""Images that are given in memory, as arrays, tensors, pairs or a loader, instead of a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.sources import ArrayImages, array_images
from filtersurgeon.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMS = (
    "images (n, channels, height, width), a pair (images, labels), a data set of such pairs, or a "
    "DataLoader"
)


class GivenImages(str):
    """The name of images that are given in memory, which carries them.

    The name is made of their digest, so that a history can tell them from others.

    Attributes:
        images: ``(n, channels, height, width)`` or ``(n, height, width, channels)`` bytes, which
            are prepared like those of a file; or ``(n, channels, ...)`` float32, which a network
            takes as they are.
        classes: one integer for each; None if there are no labels.
    """

    images: np.ndarray
    classes: np.ndarray | None

    def __deepcopy__(self, memo: object) -> GivenImages:
        return self

    def open(self, labelled: bool) -> ArrayImages:
        """Give the images as a source.

        Raises:
            DataError: labels are needed, and there are none; or shapes or types are not those of
                labelled images.
        """
        import numpy as np

        if self.classes is None and labelled:
            raise DataError(f"{self}: the images have no labels; give `data` as (images, labels)")
        classes = np.zeros(len(self.images), np.int64) if self.classes is None else self.classes
        if self.images.dtype == np.uint8:
            return array_images(self.images, classes, str(self))
        return PreparedImages(np.moveaxis(self.images, 1, -1), classes.tolist(), str(self))


@dataclass(frozen=True)
class PreparedImages(ArrayImages):
    """Images that a network takes as they are, their channels last."""

    def image(self, index: int) -> Image:
        """Make a PIL image of one entry, its values stretched over the greys."""
        import numpy as np

        values = self.pixels[index]
        low, high = values.min(), values.max()
        stretched = (values - low) / max(high - low, np.finfo(np.float32).tiny)
        return ArrayImages(stretched[None], [0], self.title).image(0)


def as_source(given: Any) -> str:
    """Give the source of images: names as they are, and images in memory with a name.

    Raises:
        DataError: they are no images.
    """
    if isinstance(given, str):
        return given
    if hasattr(given, "__fspath__"):
        return str(given)
    images, labels = _collect(given)
    _check(images, labels)
    known = sha256(images.tobytes())
    known.update(b"" if labels is None else labels.tobytes())
    found = GivenImages(f"images-{known.hexdigest()[:12]}")
    found.images, found.classes = images, labels
    return found


def _collect(given: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Give the images, and the labels if there are any, each as one array."""
    import numpy as np

    if _is_array(given):
        return _as_array(given), None
    pair = isinstance(given, tuple) and len(given) == 2
    if pair and _is_array(given[0]) and given[0].ndim > 2 and np.ndim(given[1]) == 1:
        return _as_array(given[0]), _as_array(given[1])
    if isinstance(given, Iterable) and not isinstance(given, bytes | dict):
        return _join(given)
    listed = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if not listed or isinstance(given, bytes | dict):
        raise DataError(f"`data` of type {type(given).__name__} holds no images; give {FORMS}")
    return _join(given[k] for k in range(len(given)))


def _join(parts: Iterable[Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Join batches, or single images, with or without labels."""
    import numpy as np
    from torch.utils.data import DataLoader

    batched = isinstance(parts, DataLoader)
    images, labels = [], []
    for part in parts:
        image, *rest = part if isinstance(part, tuple | list) else (part,)
        label = _as_array(rest[0]) if rest else None
        single = label.ndim == 0 if label is not None else not batched
        values = _as_array(image)
        images.append(values[None] if single else values)
        if label is not None:
            labels.append(np.atleast_1d(label))
    if not images:
        raise DataError("`data` holds no images")
    if len({x.shape[1:] for x in images}) > 1:
        raise DataError("`data` holds images of several sizes; resize them to one")
    return np.concatenate(images), np.concatenate(labels) if labels else None


def _is_array(value: Any) -> bool:
    import numpy as np
    from torch import Tensor

    return isinstance(value, np.ndarray | Tensor)


def _as_array(value: Any) -> np.ndarray:
    import numpy as np
    from torch import Tensor

    if isinstance(value, Tensor):
        real = value.detach().cpu()
        return (real.float() if real.is_floating_point() else real).numpy()
    if isinstance(value, dict):
        raise DataError(f"`data` holds dicts; give {FORMS}")
    found = np.asarray(value)
    return found.astype(np.float32) if found.dtype.kind == "f" else found


def _check(images: np.ndarray, labels: np.ndarray | None) -> None:
    """Refuse arrays that are no images, or labels that are not theirs."""
    import numpy as np

    if images.ndim < 3 or not len(images) or images.dtype not in (np.uint8, np.float32):
        raise DataError(
            f"`data` of shape {images.shape} and type {images.dtype} is not {FORMS}; images are "
            "bytes, or real numbers as the network takes them"
        )
    if labels is None:
        return
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise DataError(
            f"`data` holds {len(images)} images, which need as many integer labels, not "
            f"{labels.shape} of {labels.dtype}"
        )
