"""Bytes into a page's text: differences of neighbours, deflated, in 85 harmless signs."""

from __future__ import annotations

import zlib

import numpy as np

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
