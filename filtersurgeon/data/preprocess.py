"""From images to network inputs, through timm's own transforms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import inf
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.opening import check_resized
from filtersurgeon.errors import DataError, OptionError, near_misses

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

Transform = Callable[[Any], "Tensor"]
DEFAULT_SIDE = 224
CROP_MODES = ("center", "squash", "border")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@dataclass(frozen=True)
class Preprocessing:
    """What a network expects of its input.

    Attributes:
        mean: per-channel mean of pixels in 0..1, subtracted first.
        std: per-channel deviation, divided by afterwards.
        input_size: (channels, height, width), or None to keep each picture's own size.
        crop_pct: part of the resized picture that the central crop keeps.
        crop_mode: timm's ``center``, ``squash`` or ``border``.
        interpolation: timm's name of the resampling filter.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: tuple[int, int, int] | None
    crop_pct: float
    crop_mode: str
    interpolation: str

    def check(self, image: Image) -> None:
        """Refuse an image that would be huge once it is resized; raises DataError."""
        _, height, width = self.input_size or (0, DEFAULT_SIDE, DEFAULT_SIDE)
        if self.crop_mode == "center":
            check_resized(image, height / self.crop_pct, width / self.crop_pct)

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.mean)


@dataclass(frozen=True)
class Augmentation:
    """Random augmentation of training images, with the names of timm.

    Attributes:
        scale: least and greatest area of a random crop, as parts of the picture.
        ratio: least and greatest aspect ratio of that crop.
        hflip: probability of a horizontal flip.
        vflip: probability of a vertical flip.
        color_jitter: strength of brightness, contrast and saturation changes.
        auto_augment: a timm policy such as ``rand-m9-mstd0.5-inc1``, or None.
        re_prob: probability of erasing a random rectangle.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 4.0 / 3.0)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float = 0.4
    auto_augment: str | None = None
    re_prob: float = 0.0


def read_preprocessing(pretrained_cfg: Mapping[str, Any], **overrides: Any) -> Preprocessing:
    """Read a ``pretrained_cfg``, filling the gaps with timm's defaults.

    Args:
        pretrained_cfg: timm's configuration of a pretrained network; may be empty.
        **overrides: values that replace those of the configuration (``mean``, ``std``, ...).

    Returns:
        The preprocessing. A one-channel network with a three-channel mean gets its average,
        since a grey picture is the average of its channels.

    Raises:
        DataError: the numbers of means, deviations and channels do not fit together, or a value
            makes no sense.
    """
    known = {**pretrained_cfg, **overrides}
    _check_values(known)
    # As timm.data.resolve_data_config fills gaps; importing timm for it would take seconds.
    config = {word: known.get(word) or default for word, default in _DEFAULTS.items()}
    size = known.get("input_size")
    channels = int(size[0]) if size else int(known.get("in_chans") or len(config["mean"]))
    return Preprocessing(
        mean=_per_channel(config["mean"], channels, "mean"),
        std=_per_channel(config["std"], channels, "std"),
        input_size=(channels, int(size[1]), int(size[2])) if size else None,
        crop_pct=float(config["crop_pct"]),
        crop_mode=str(config["crop_mode"]),
        interpolation=str(config["interpolation"]),
    )


_DEFAULTS: dict[str, Any] = {
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
    "interpolation": "bicubic",
}


def _check_values(known: Mapping[str, Any]) -> None:
    """Refuse what timm's transforms would stumble over."""
    for word, words in (("crop_mode", CROP_MODES), ("interpolation", INTERPOLATIONS)):
        value = known.get(word)
        if value is not None and value not in words:
            raise DataError(f"{word} {value!r} is unknown{near_misses(str(value), words)}")
    size = known.get("input_size")
    if size and not (_are_numbers(size, Integral) and len(size) == 3 and min(size) >= 1):
        raise DataError(f"input_size should be channels, height and width, not {_shown(size)}")
    if size and max(size) > _LONGEST_SIDE:
        raise DataError(f"input_size has a side of more than {_LONGEST_SIDE:,}")
    for word in ("mean", "std"):
        values = known.get(word)
        if values is not None and not (_are_numbers(values, Real) and values):
            raise DataError(f"{word} should be one number per channel, not {_shown(values)}")
        if values is not None and max(values) > _BRIGHTEST:
            raise DataError(
                f"{word} {_shown(values)} is of pixels in 0..255; divide it by 255, for pixels "
                "are scaled to 0..1"
            )
    if min(known.get("std") or [1]) <= 0:
        raise DataError(f"std must be positive, not {_shown(known['std'])}")
    part = known.get("crop_pct")
    if part is not None and not (_is_number(part, Real) and 0 < part <= 1):
        raise DataError(f"crop_pct must lie in 0..1, not {_shown(part)}")
    count = known.get("in_chans")
    if count is not None and not (_is_number(count, Integral) and 0 < count <= _LONGEST_SIDE):
        raise DataError(f"in_chans should be a number of channels, not {_shown(count)}")


_BRIGHTEST = 10  # of pixels in 0..1 with room for any normalisation
_LONGEST_SIDE = 1_000_000
_SHOWN = 60


def _is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and abs(value) < inf


def _are_numbers(values: Any, kind: Any) -> bool:
    return isinstance(values, list | tuple) and all(_is_number(value, kind) for value in values)


def _shown(value: Any) -> str:
    """Give a value as a short text; a file may hold any."""
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def image_transform(
    preprocessing: Preprocessing, augmentation: Augmentation | None = None
) -> Transform:
    """Build timm's transform from a PIL image to a normalised tensor (channels, height, width).

    Args:
        preprocessing: what the network expects; without an input size, 224 by 224.
        augmentation: random changes for training, or None for the evaluation transform.

    Raises:
        OptionError: an unusable augmentation.

    Calling the transform raises DataError for an image that would be huge once it is resized.
    """
    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    from timm.data import create_transform

    size = preprocessing.input_size or (preprocessing.channels, DEFAULT_SIDE, DEFAULT_SIDE)
    fixed = {
        "input_size": size,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
        "interpolation": preprocessing.interpolation,
    }
    if augmentation is None:
        fit = create_transform(
            **fixed, crop_pct=preprocessing.crop_pct, crop_mode=preprocessing.crop_mode
        )
        return _Checked(preprocessing, fit)
    _check_augmentation(augmentation)
    try:
        return create_transform(**fixed, is_training=True, **asdict(augmentation))
    except (AssertionError, ValueError, KeyError, TypeError) as problem:
        raise OptionError(f"timm cannot augment so: {problem}") from problem


def mask_transform(
    preprocessing: Preprocessing, augmentation: Augmentation | None = None
) -> Transform:
    """Build the transform of masks that goes with :func:`image_transform` of their images.

    The same crops and flips, by the same chance, and no change of values. What lies outside of a
    mask becomes 255.

    Args:
        preprocessing: of the images.
        augmentation: of the images.

    Returns:
        A function from a grey PIL image to bytes (1, height, width).

    Raises:
        OptionError: an augmentation that moves pixels in ways of its own.
    """
    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    from timm.data import create_transform

    size = preprocessing.input_size or (preprocessing.channels, DEFAULT_SIDE, DEFAULT_SIDE)
    # A white mean fills margins with 255; with a prefetcher, values are left as they are.
    fixed = {
        "input_size": (1, *size[1:]),
        "mean": (1.0,),
        "std": (1.0,),
        "interpolation": "nearest",
        "use_prefetcher": True,
    }
    if augmentation is None:
        crop = {"crop_pct": preprocessing.crop_pct, "crop_mode": preprocessing.crop_mode}
        return create_transform(**fixed, **crop)
    if augmentation.auto_augment:
        raise OptionError("auto_augment turns and shears images but not their masks; leave it out")
    moved = {**asdict(augmentation), "color_jitter": None, "re_prob": 0.0}
    return create_transform(**fixed, is_training=True, **moved)


@dataclass(frozen=True)
class _Checked:
    """A transform that first looks at how large an image would become."""

    preprocessing: Preprocessing
    fit: Transform

    def __call__(self, image: Any) -> Tensor:
        self.preprocessing.check(image)
        try:
            return self.fit(image)
        except ValueError as problem:  # of Pillow, where one side would have no pixel
            size = f"{image.width}x{image.height}"
            raise DataError(f"an image of {size} pixels cannot be resized ({problem})") from None


def _check_augmentation(augmentation: Augmentation) -> None:
    for word, greatest in (("scale", 1.0), ("ratio", inf)):
        least, most = getattr(augmentation, word)
        if not 0 < least <= most <= greatest:
            raise OptionError(
                f"{word} should be two values in increasing order, not {least:g},{most:g}"
            )
    for word in ("hflip", "vflip", "re_prob"):
        if not 0 <= getattr(augmentation, word) <= 1:
            raise OptionError(f"{word} is a probability, not {getattr(augmentation, word):g}")
    if not 0 <= augmentation.color_jitter < inf:
        raise OptionError(f"color_jitter must be at least 0, not {augmentation.color_jitter:g}")


def array_transform(preprocessing: Preprocessing) -> Transform:
    """Build the transform of arrays that already have the network's size.

    Returns:
        A function from (height, width, channels), bytes or floats in 0..1, to a normalised
        tensor (channels, height, width): the arithmetic of torchvision's ``ToTensor`` and
        ``Normalize`` without a detour through PIL.
    """
    import torch

    mean = torch.tensor(preprocessing.mean).view(-1, 1, 1)
    std = torch.tensor(preprocessing.std).view(-1, 1, 1)

    def apply(pixels: np.ndarray) -> Tensor:
        planes = torch.from_numpy(pixels.transpose(2, 0, 1).copy())
        values = planes.float().div_(255) if planes.dtype == torch.uint8 else planes.float()
        return values.sub_(mean).div_(std)

    return apply


def fit_channels(image: Image, channels: int) -> Image:
    """Give a PIL image one (grey) or three (RGB) channels.

    Raises:
        DataError: the network takes another number of channels.
    """
    modes = {1: "L", 3: "RGB"}
    if channels not in modes:
        raise DataError(f"pictures have 1 or 3 channels but the network takes {channels}")
    try:
        return image if image.mode == modes[channels] else image.convert(modes[channels])
    except ValueError:  # such as 16 bits in the other byte order
        raise DataError(f"pixels of mode {image.mode} cannot be converted to colours") from None


def _per_channel(values: Any, channels: int, word: str) -> tuple[float, ...]:
    """Match a mean or deviation to the number of channels."""
    found = tuple(float(value) for value in values)
    if len(found) == channels:
        return found
    if len(found) == 1:
        return found * channels
    if channels == 1:
        return (sum(found) / len(found),)
    raise DataError(f"{word} has {len(found)} values but the network has {channels} input channels")
