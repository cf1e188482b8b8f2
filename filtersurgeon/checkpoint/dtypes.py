"""The element types that safetensors stores, and their conversion to a type one can compute in.

NumPy has no bfloat16, so that type is converted by its bits: tensor surgery needs no torch.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, TypeAlias

import numpy as np

from filtersurgeon.errors import CheckpointError

Buffer: TypeAlias = bytes | memoryview | np.ndarray
"""Anything that holds bytes; arrays are one-dimensional uint8."""

BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
"""Bits per element of every dtype name of the safetensors format."""

COMPUTABLE = ("F16", "BF16", "F32", "F64")
"""The types that can be decoded, computed on and encoded again; all others only pass through."""


def byte_count(dtype: str, shape: tuple[int, ...]) -> int:
    """Give the number of bytes that a tensor takes; raises ValueError on a broken last byte."""
    bits = prod(shape) * BITS[dtype]
    if bits % 8:
        raise ValueError(f"{dtype} of shape {list(shape)} does not fill whole bytes")
    return bits // 8


def decode(raw: Buffer, dtype: str) -> np.ndarray:
    """Turn the bytes of a float tensor into a flat array of float32, or float64 for ``F64``.

    The array may be a read-only view of the bytes.

    Raises:
        CheckpointError: the dtype is not one to compute in.
    """
    if dtype == "F32":
        return np.frombuffer(raw, "<f4")
    if dtype == "F64":
        return np.frombuffer(raw, "<f8")
    if dtype == "F16":
        return np.frombuffer(raw, "<f2").astype(np.float32)
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    raise CheckpointError(f"cannot compute with elements of type {dtype}")


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """Turn float values into the bytes of ``dtype``, rounded to nearest, ties to even.

    Returns:
        A flat uint8 array.

    Raises:
        CheckpointError: the dtype is not one to compute in.
    """
    if dtype not in COMPUTABLE:
        raise CheckpointError(f"cannot compute with elements of type {dtype}")
    if dtype == "BF16":
        encoded: np.ndarray = _to_bfloat16(values)
    else:
        kind = {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype]
        with np.errstate(over="ignore"):
            encoded = np.ascontiguousarray(values, kind)
    return encoded.reshape(-1).view(np.uint8)


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # Half of the dropped range, less one where the kept part is even, makes ties go to even;
    # a NaN is kept a NaN by setting its quiet bit instead.
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet, rounded).astype("<u2")


@cache
def torch_dtypes() -> dict[str, Any]:
    """Map dtype names to those ``torch.dtype`` that the installed torch has."""
    import torch

    names = {
        "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
        "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16",
        "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
        "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
    }  # fmt: skip
    return {code: getattr(torch, name) for code, name in names.items() if hasattr(torch, name)}


@cache
def dtype_names() -> dict[Any, str]:
    """Map the types of torch to the names that safetensors gives them."""
    return {dtype: name for name, dtype in torch_dtypes().items()}
