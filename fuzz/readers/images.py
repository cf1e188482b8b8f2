"""Image files, as every verb opens and resizes them, with checksums of PNG made right."""

from __future__ import annotations

import io
import zlib
from functools import cache

import numpy as np
from PIL import Image

from filtersurgeon.data.opening import image_mode, open_image
from filtersurgeon.data.preprocess import Preprocessing, fit_channels, image_transform
from fuzz.bounds import Bounds
from fuzz.scratch import place

BOUNDS = Bounds(seconds=20.0, megabytes=1700)
"""An image of 100 million pixels may be read, and be resized to as many."""
_BEGIN = b"\x89PNG\r\n\x1a\n"
_KINDS = (("PNG", "RGB"), ("PNG", "P"), ("PNG", "1"), ("PNG", "I;16"), ("JPEG", "RGB"),
          ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"),
          ("TIFF", "F"), ("PPM", "L"))  # fmt: skip


@cache
def _transforms() -> tuple[tuple[Preprocessing, object], ...]:
    mean = (0.5, 0.5, 0.5)
    colour = Preprocessing(mean, mean, (3, 32, 32), 0.9, "center", "bicubic")
    grey = Preprocessing((0.5,), (0.5,), (1, 24, 40), 1.0, "border", "bilinear")
    return tuple((spec, image_transform(spec)) for spec in (colour, grey))


def corpus() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), np.uint8)
    found = []
    for kind, mode in _KINDS:
        file = io.BytesIO()
        image = Image.fromarray(pixels)
        if mode in ("I;16", "F"):
            image = Image.fromarray(pixels[..., 0].astype({"F": np.float32}.get(mode, np.uint16)))
        elif image.mode != mode:
            image = image.convert(mode)
        image.save(file, kind)
        found.append(file.getvalue())
    file = io.BytesIO()
    frames = [Image.fromarray(pixels[::k]) for k in (1, 1)]
    frames[0].save(file, "TIFF", save_all=True, append_images=frames[1:], compression="tiff_lzw")
    return [*found, file.getvalue()]


def refused() -> list[bytes]:
    return [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"]


def repair(case: bytes) -> bytes:
    """Make the checksums of a PNG's chunks right."""
    if not case.startswith(_BEGIN):
        return case
    whole, place_ = bytearray(case), len(_BEGIN)
    while place_ + 12 <= len(whole):
        length = int.from_bytes(whole[place_ : place_ + 4], "big")
        end = place_ + 8 + length
        if end + 4 > len(whole):
            break
        whole[end : end + 4] = zlib.crc32(whole[place_ + 4 : end]).to_bytes(4, "big")
        place_ = end + 4
    return bytes(whole)


def read(case: bytes) -> None:
    path = place("image.png", case)
    image_mode(path)
    image = open_image(path, "image.png")
    for spec, transform in _transforms():
        fitted = transform(fit_channels(image, spec.channels))  # type: ignore[operator]
        assert fitted.shape == spec.input_size
