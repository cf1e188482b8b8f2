"""Opens image files of unknown origin: usual formats, regular files, bounded sizes, one error."""

from __future__ import annotations

import logging
import os
import stat
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from filtersurgeon.data.decoding_cost import CostlyImage, Parts, check_strips, check_tiles
from filtersurgeon.errors import DataError, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""Pillow's names of the formats that are read; its others may start programs."""
MOST_PIXELS = 100_000_000
"""Of an image, as it is and as it is resized for a network."""
_MEGA = 1_000_000


def open_image(file: Path | bytes, name: str) -> Image:
    """Read an image.

    Args:
        file: its path, or its bytes.
        name: what errors call it.

    Returns:
        The image, or the first one of a file of several, decoded; no file stays open.

    Raises:
        ImageError: it is missing, not a regular file, of another format, damaged, or has more than
            ``MOST_PIXELS`` pixels.
    """
    return _open(file, name, decode=True)


def image_mode(path: Path) -> str | None:
    """Read Pillow's mode of an image from its header; None if it cannot be read."""
    try:
        return str(_open(path, path.name, decode=False).mode)
    except ImageError:
        # Reported where the image is used, or left out by then.
        return None


def _open(file: Path | bytes, name: str, decode: bool) -> Image:
    import warnings

    from PIL import UnidentifiedImageError

    if isinstance(file, Path):
        check_regular(file, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about sizes that are checked below
            with (
                BytesIO(file) if isinstance(file, bytes) else file.open("rb") as raw,
                _opened(raw) as opened,
            ):
                # The header tells the size; a file of a few bytes can claim to be huge.
                if opened.width * opened.height > MOST_PIXELS:
                    raise ImageError(
                        f"{name} has {opened.width}x{opened.height} pixels, and "
                        f"{MOST_PIXELS // _MEGA} million are read; make it smaller"
                    )
                if decode:
                    check_tiles(opened)
                    opened.load()
                return opened
    except (ImageError, MemoryError):
        raise
    except CostlyImage as problem:
        raise ImageError(f"{name} {problem}, and would take too long; save it anew") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ImageError(f"{name} is not an image of a format that is read ({known})") from None
    except Exception as problem:  # Pillow's decoders raise nearly everything
        raise ImageError(f"{name} is not an image that can be read ({_reason(problem)})") from None


def _opened(raw: IO[bytes]) -> Image:
    """Open an image by its header; raises as Pillow does, and CostlyImage."""
    from PIL import Image

    _silence_decoders()
    check_strips(raw)
    parts = Parts(raw)
    opened = Image.open(parts, formats=FORMATS)  # type: ignore[arg-type]
    parts.counts_scans = opened.format in ("JPEG", "MPO")
    return opened


@cache
def _silence_decoders() -> None:
    """Keep libtiff and Pillow from writing to standard error; what is wrong is also raised."""
    import ctypes

    from PIL import _imaging

    logging.getLogger("PIL").addHandler(logging.NullHandler())
    with suppress(OSError, AttributeError):  # a build of Pillow without libtiff
        library = ctypes.CDLL(_imaging.__file__)  # symbols of the libraries that it loaded, too
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)


def check_regular(path: Path, name: str) -> None:
    """Refuse what is no regular file, such as a named pipe, which could be waited for for ever.

    Raises:
        ImageError: it is something else, or missing.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError) as problem:
        missing = isinstance(problem, FileNotFoundError | NotADirectoryError)
        reason = "no such file" if missing else f"cannot be read ({_reason(problem)})"
        raise ImageError(f"{name}: {reason}") from None
    if not regular:
        raise ImageError(f"{name} is not a regular file")


def check_resized(image: Image, height: float, width: float) -> None:
    """Refuse an image that would be huge once it is resized.

    Args:
        image: as it is.
        height: rows that it is to cover; its aspect ratio is kept.
        width: columns that it is to cover.

    Raises:
        ImageError: a long and narrow image would become longer than memory justifies.
    """
    scale = max(height / image.height, width / image.width)
    if image.height * image.width * scale * scale > MOST_PIXELS:
        raise ImageError(
            f"an image of {image.width}x{image.height} pixels would have more than "
            f"{MOST_PIXELS // _MEGA} million once its shorter side is resized; crop it first"
        )


def name_in(problem: DataError, name: str) -> str:
    """Give an error's text with the name of its image, unless it begins with it."""
    text = str(problem)
    return text if text.startswith(name) else f"{name}: {text}"


def _reason(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0]
