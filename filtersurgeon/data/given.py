"""Images that are given in memory, as arrays, tensors, pairs or a loader, instead of a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.sources import ArrayImages, array_images, array_labels
from filtersurgeon.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

FORMS = (
    "images (n, channels, height, width), a pair (images, labels), a data set of such pairs, or a "
    "DataLoader"
)
LABELS = "(n,) classes, (n, classes) of 0, 1 or -1, or (n, height, width) masks"


class GivenImages(str):
    """The name of images that are given in memory, which carries them.

    The name is made of their digest, so that a history can tell them from others.

    Attributes:
        images: ``(n, channels, height, width)`` or ``(n, height, width, channels)`` bytes, which
            are prepared like those of a file; or ``(n, channels, ...)`` float32, which a network
            takes as they are.
        classes: one integer for each, one label for each class, or masks; None if there are no
            labels.
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
        pixels = np.moveaxis(self.images, 1, -1)
        return PreparedImages(pixels, array_labels(classes, pixels.shape, str(self)), str(self))


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
    if _is_array(given):
        return _as_array(given), None
    if isinstance(given, tuple) and len(given) == 2 and _are_labelled(*given):
        return _as_array(given[0]), _as_array(given[1])
    if isinstance(given, Iterable) and not isinstance(given, bytes | dict):
        return _join(given)
    listed = hasattr(given, "__getitem__") and hasattr(given, "__len__")
    if not listed or isinstance(given, bytes | dict):
        raise DataError(f"`data` of type {type(given).__name__} holds no images; give {FORMS}")
    return _join(given[k] for k in range(len(given)))


def _are_labelled(images: Any, labels: Any) -> bool:
    """Tell whether a pair is images and their labels, not two batches or two images."""
    import numpy as np

    if not _is_array(images) or images.ndim < 3:
        return False
    axes, shape = np.ndim(labels), np.shape(labels)
    if axes == 1:
        return True
    if images.ndim < 4 or not axes or shape[0] != len(images):
        return False
    # Masks have one channel at most, and the size of the images.
    sides = tuple(images.shape[2:]), tuple(images.shape[1:-1])
    masks = axes == 3 or (axes == 4 and 1 in (shape[1], shape[-1]))
    if masks and shape == images.shape:
        masks = bool(np.isin(_as_array(labels), (0, 1)).all())  # or a batch of grey images
    return axes == 2 or (masks and any(set(x) <= set(shape[1:]) for x in sides))


def _is_single(image: Any, label: np.ndarray, batched: bool) -> bool:
    """Tell whether a pair of a data set is one image with its label, not a batch of them."""
    if label.ndim == 0 or batched:
        return label.ndim == 0
    if label.ndim > 1:
        return image.ndim == 3 and not (label.ndim == 3 and len(label) == len(image) > 1)
    # A row of labels of one image, or the classes of a batch.
    return image.ndim == 3 and (len(image) in (1, 3) or len(label) != len(image))


def _join(parts: Iterable[Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """Join batches, or single images, with or without labels."""
    import numpy as np
    from torch.utils.data import DataLoader

    batched = isinstance(parts, DataLoader)
    images, labels = [], []
    for part in parts:
        image, *rest = part if isinstance(part, tuple | list) else (part,)
        label = _as_array(rest[0]) if rest else None
        values = _as_array(image)
        single = not batched if label is None else _is_single(values, label, batched)
        images.append(values[None] if single else values)
        if label is not None:
            labels.append(label[None] if single else np.atleast_1d(label))
    if not images:
        raise DataError("`data` holds no images")
    if len({x.shape[1:] for x in images}) > 1:
        raise DataError("`data` holds images of several sizes; resize them to one")
    if len({x.shape[1:] for x in labels}) > 1:
        raise DataError("`data` holds labels of several shapes; give masks of one size")
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
    whole = labels.dtype.kind in "iu" or (labels.ndim > 1 and labels.dtype.kind in "bf")
    if not labels.ndim or len(labels) != len(images) or labels.ndim > images.ndim or not whole:
        raise DataError(
            f"`data` holds {len(images)} images, which need as many integer labels ({LABELS}), not "
            f"{labels.shape} of {labels.dtype}"
        )
