"""What is wrong, or worth a note, with labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from math import log
from pathlib import Path

from filtersurgeon.data.labels import classes_differ
from filtersurgeon.data.sources import ArrayImages, FileImages, ImageSource

UNLIKELY = 1e-6


def check_classes(labels: Sequence[int], count: int, n_classes: int, title: str) -> None:
    """Refuse labels of another set of classes than the network's.

    A few images may lack the last classes. Labels are refused if so many images would have none
    above the highest label with a probability below ``UNLIKELY``, were all classes equally likely.

    Args:
        labels: of all images.
        count: classes of the data set, which is its highest label and one.
        n_classes: outputs of the network.
        title: how messages call the data set.

    Raises:
        DataError: they are another network's.
    """
    if count < n_classes and len(labels) * log(max(count, 1) / n_classes) < log(UNLIKELY):
        raise classes_differ(title, count, n_classes)


def within_range(source: ImageSource, n_classes: int | None) -> tuple[list[int], list[str]]:
    """Part the images with a label that the network has from the others, which are named.

    Args:
        source: where images come from.
        n_classes: outputs of the network; None if labels do not matter.
    """
    good, problems = [], []
    for index, label in enumerate(source.labels):
        if n_classes is None or 0 <= label < n_classes:
            good.append(index)
        else:
            problems.append(
                f"{source.name(index)}: label {label},"
                f" but the network's head has {n_classes} classes"
            )
    return good, problems


def readable(source: ImageSource, indices: Sequence[int]) -> tuple[list[int], list[str]]:
    """Part the images that can be decoded from the others, which are named.

    Args:
        source: where images come from.
        indices: positions to try; decoding runs in threads.
    """
    from concurrent.futures import ThreadPoolExecutor

    if isinstance(source, ArrayImages):
        return list(indices), []

    def attempt(index: int) -> str | None:
        try:
            source.image(index)
        except Exception as problem:  # Pillow's decoders raise nearly everything
            return f"{source.name(index)}: cannot be read ({problem})"
        return None

    with ThreadPoolExecutor() as pool:
        found = list(zip(indices, pool.map(attempt, indices), strict=True))
    return (
        [index for index, problem in found if problem is None],
        [problem for _, problem in found if problem is not None],
    )


def channel_note(source: ImageSource, good: list[int], channels: int) -> list[str]:
    """Say whether a look at a few images found grey ones for a colour network, or the reverse."""
    step = max(1, len(good) // 32)
    wrong = {
        1: ("RGB", "colour images converted to grey"),
        3: ("L", "grey images converted to colour"),
    }
    if channels not in wrong:
        return []
    mode, text = wrong[channels]
    if isinstance(source, ArrayImages):
        return [text] if source.pixels.shape[-1] != channels else []
    for index in good[::step]:
        if isinstance(source, FileImages) and _mode(source.paths[index]) == mode:
            return [f"{text}, such as {source.name(index)}"]
    return []


def _mode(path: Path) -> str | None:
    """Read Pillow's mode of an image from its header; None if that is unreadable."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return str(opened.mode)
    except OSError:
        # Reported where the image is used, or left out by then.
        return None
