"""Feature maps as signed bytes, and bytes as a page's text.

There is one scale per channel, and zero is exactly representable. Bytes become differences of
neighbours, deflated, in 85 harmless signs.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np

LEVELS = 127
ZERO = 128
"""The byte that stands for zero; the byte 0 stands for what is not a number."""

FACTS = ("minimum", "maximum", "mean", "deviation", "active")
"""What is known of every channel, of its map before it was quantised or made smaller."""

RULE = (
    "byte b of channel c stands for (b - 128) * bound[c] / 127; bound[c] is the largest magnitude "
    "of the map, and b is rounded to the nearest; 0 stands for a value that is not finite"
)


@dataclass(frozen=True)
class Maps:
    """The feature maps of one step for one image.

    Attributes:
        values: ``(channels, height, width)`` uint8, see :data:`RULE`.
        bound: ``(channels,)`` float32, the magnitude that the farthest bytes from zero stand for.
        facts: ``(channels, 5)`` float32, in the order of :data:`FACTS`.
    """

    values: np.ndarray
    bound: np.ndarray
    facts: np.ndarray = field(default_factory=lambda: np.zeros((0, len(FACTS)), np.float32))

    def dequantised(self) -> np.ndarray:
        """Give the maps as numbers, ``(channels, height, width)`` float32.

        They differ from the original by at most half a step, ``bound / 254``.
        """
        steps = self.values.astype(np.float32) - ZERO
        found = steps * (self.bound / np.float32(LEVELS))[:, None, None]
        found[self.values == 0] = np.nan
        return found


def quantise(maps: np.ndarray, bound: np.ndarray | None = None) -> Maps:
    """Round maps to signed bytes.

    Args:
        maps: ``(channels, height, width)`` float32.
        bound: ``(channels,)`` magnitudes of full scale; None for each map's own.
    """
    finite = np.isfinite(maps)
    whole = bool(finite.all())
    clean = maps if whole else np.where(finite, maps, 0)
    if bound is None:
        bound = np.abs(clean).max((1, 2)).astype(np.float32)
    scale = np.divide(LEVELS, bound, out=np.zeros(len(bound), np.float64), where=bound > 0)
    scale[~np.isfinite(scale)] = 0  # of numbers so small that they are shown as zero
    steps = np.rint(clean * scale[:, None, None].astype(np.float64))
    values = (np.clip(steps, -LEVELS, LEVELS) + ZERO).astype(np.uint8)
    if not whole:
        values[~finite] = 0
    return Maps(values, bound, facts_of(clean))


def facts_of(maps: np.ndarray) -> np.ndarray:
    """Measure every channel, ``(channels, 5)`` float32 in the order of :data:`FACTS`."""
    axes = (1, 2)
    return np.stack(
        [maps.min(axes), maps.max(axes), maps.mean(axes, np.float64), maps.std(axes, np.float64),
         (maps > 0).mean(axes)],
        axis=1,
    ).astype(np.float32)  # fmt: skip


def rectify(maps: Maps) -> np.ndarray:
    """Give the bytes of what a rectifier makes of maps, at their own bounds."""
    return np.where(maps.values == 0, maps.values, np.maximum(maps.values, ZERO))


# Printable ASCII without what HTML, JSON or a script might take for its own.
SIGNS = bytes(sign for sign in range(33, 127) if chr(sign) not in "\"'&<>\\`-/")[:85]
_POWERS = 85 ** np.arange(4, -1, -1, dtype=np.uint64)


def pack(values: np.ndarray) -> str:
    """Write bytes as text, small.

    The first byte of what is deflated says how the rest was prepared: 0 as it is, 1 every byte of
    the last axis less the one before it, where that is the smaller.

    Args:
        values: uint8, any shape.
    """
    plain = np.ascontiguousarray(values)
    found = [_deflate(0, plain)]
    if plain.ndim > 1 and plain.shape[-1] > 2:
        differences = plain.copy()
        differences[..., 1:] -= plain[..., :-1]
        found.append(_deflate(1, differences))
    return as_text(min(found, key=len))


def unpack(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Read what :func:`pack` wrote."""
    held = zlib.decompress(from_text(text), wbits=-zlib.MAX_WBITS)
    values = np.frombuffer(held, np.uint8, offset=1).reshape(shape)
    return np.cumsum(values, axis=-1, dtype=np.uint8) if held[0] else values


def _deflate(how: int, values: np.ndarray) -> bytes:
    engine = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS, 9)
    return engine.compress(bytes([how])) + engine.compress(values.data) + engine.flush()


def as_text(content: bytes) -> str:
    """Write bytes in 85 signs, five for every four bytes; the first sign tells the padding."""
    padding = -len(content) % 4
    words = np.frombuffer(content + bytes(padding), ">u4").astype(np.uint64)
    digits = (words[:, None] // _POWERS % np.uint64(85)).astype(np.uint8)
    signs = np.frombuffer(SIGNS, np.uint8)[digits]
    return str(padding) + signs.tobytes().decode("ascii")


def from_text(text: str) -> bytes:
    """Read what :func:`as_text` wrote."""
    table = np.zeros(256, np.uint64)
    table[np.frombuffer(SIGNS, np.uint8)] = np.arange(85, dtype=np.uint64)
    digits = table[np.frombuffer(text[1:].encode("ascii"), np.uint8)].reshape(-1, 5)
    content = (digits @ _POWERS).astype(">u4").tobytes()
    return content[: len(content) - int(text[0])]
