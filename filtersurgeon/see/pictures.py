"""Images from the command line, as a network gets them and as they are shown, and their size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.data import as_spec, open_data
from filtersurgeon.data.opening import name_in, open_image
from filtersurgeon.data.preprocess import fit_channels, image_transform
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.learn.networks import Network
from filtersurgeon.plots.tones import photograph

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

USUAL = 224


def image_size(network: Network, tell: Callable[[str], None] | None = None) -> tuple[int, int, int]:
    """Give (channels, height, width) of a network's own images.

    Args:
        network: its preprocessing may state the size.
        tell: told where it does not, and 224 by 224 is taken.
    """
    stated = network.preprocessing.input_size
    if stated is None and tell:
        tell(
            f"{network.name} states no input size: {USUAL}x{USUAL} is used; "
            "change it with `preprocess` input_size=C,H,W"
        )
    return stated or (network.preprocessing.channels, USUAL, USUAL)


Tell = Callable[[str], None]


@dataclass(frozen=True)
class Picture:
    """One image.

    Attributes:
        name: of its file, or its place in the data.
        tensor: ``(channels, height, width)``, normalised as the network expects.
        pixels: ``(height, width, 3)`` uint8, what the network sees.
        label: its class, where it is known.
    """

    name: str
    tensor: Tensor
    pixels: np.ndarray
    label: int | None = None


def open_pictures(
    network: Network, files: Any, data: Any = None, tell: Tell | None = None
) -> list[Picture]:
    """Open image files, or the images of a data set.

    Args:
        network: its preprocessing is applied.
        files: image files; or images in memory.
        data: labelled images; all of them are opened, so let it have a ``subset``.
        tell: told what was resized or converted.

    Raises:
        OptionError: neither files nor data, or both.
        DataError: a file is missing or no image.
    """
    named = are_files(files)
    if (not named or bool(files)) == (data is not None):
        raise OptionError("pass exactly one of `images` and `data`")
    ready = set_image_size(network, tell)
    if data is None and named:
        return [_file(Path(file), ready, tell) for file in files]
    spec = as_spec(data if named else files)
    images = open_data(spec, ready.preprocessing, network.n_classes, labelled=False)
    for text in images.notes if tell else ():
        tell(text)  # type: ignore[misc]
    found = []
    for position, index in enumerate(images.indices):
        tensor, label = images[position]
        if not hasattr(tensor, "shape"):
            raise tensor.kind(tensor.text)
        name = images.source.name(index)
        found.append(Picture(name, tensor, _denormalise(tensor, network), label))  # type: ignore[arg-type]
    return found


def are_files(images: Any) -> bool:
    """Tell the names of image files, or none, from images in memory."""
    return isinstance(images, list | tuple) and all(isinstance(x, str | Path) for x in images)


def _file(path: Path, network: Network, tell: Tell | None) -> Picture:
    return as_picture(open_image(path, str(path)), path.name, network, tell)


def set_image_size(network: Network, tell: Tell | None = None) -> Network:
    """Give a network that knows how large its images are; ``tell`` gets what was assumed."""
    size = image_size(network, tell)
    return replace(network, preprocessing=replace(network.preprocessing, input_size=size))


def as_picture(image: Image, name: str, network: Network, tell: Tell | None = None) -> Picture:
    """Make an opened image what a network sees.

    Args:
        image: of PIL.
        name: what it is called.
        network: one that :func:`set_image_size` gave.
        tell: told what was resized or converted.

    Raises:
        DataError: the network takes no pictures of one or three channels, or the image would be
            huge once it is resized.
    """
    spec = network.preprocessing
    try:
        fitted = fit_channels(image, spec.channels)
        spec.check(fitted)
    except DataError as problem:
        raise type(problem)(name_in(problem, name)) from None
    height, width = image_size(network)[1:]
    changes = []
    if fitted.mode != image.mode:
        changes.append(f"converted from {image.mode} to {fitted.mode}")
    if fitted.size == (width, height):
        spec = replace(spec, crop_pct=1.0)
    else:
        changes.append(f"resized from {fitted.width}x{fitted.height} to {width}x{height}")
    if changes and tell:
        tell(f"{name}: {' and '.join(changes)}, as the network expects")
    tensor = image_transform(spec)(fitted)
    return Picture(name, tensor, _denormalise(tensor, network))


def _denormalise(tensor: Any, network: Network) -> np.ndarray:
    spec = network.preprocessing
    return photograph(tensor.numpy(), np.array(spec.mean), np.array(spec.std))


def stack_pictures(pictures: Sequence[Picture]) -> Tensor:
    """Stack pictures into one batch ``(n, channels, height, width)``."""
    import torch

    return torch.stack([picture.tensor for picture in pictures])
