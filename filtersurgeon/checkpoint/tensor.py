"""One tensor of a checkpoint: its element type, its description, and its bytes on request.

NumPy has no bfloat16, so that type is converted by its bits: editing tensors needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from filtersurgeon.checkpoint.bytesource import ByteSource
from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    import torch

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


TORCH_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16",
    "U32": "uint32", "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16",
    "BF16": "bfloat16", "F32": "float32", "F64": "float64", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""The names of torch's types by those of safetensors."""


@cache
def torch_dtypes() -> dict[str, Any]:
    """Map dtype names to those ``torch.dtype`` that the installed torch has."""
    import torch

    return {
        code: getattr(torch, name) for code, name in TORCH_NAMES.items() if hasattr(torch, name)
    }


@cache
def dtype_names() -> dict[Any, str]:
    """Map the types of torch to the names that safetensors gives them."""
    return {dtype: name for name, dtype in torch_dtypes().items()}


BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose bytes are read or computed when they are needed.

    Attributes:
        dtype: the name that safetensors gives the element type, such as ``F32``.
        shape: the axes, first axis slowest.
        open_blocks: called with a byte count ``multiple``, yields all bytes in order, in blocks
            whose sizes are multiples of it (the tensor's size must be one too).

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> stored = fs.StoredTensor.from_array(np.ones((4, 2, 3, 3)), "F16")
        >>> stored.shape, stored.nbytes, stored.array().dtype
        ((4, 2, 3, 3), 144, dtype('float32'))
    """

    dtype: str
    shape: tuple[int, ...]
    open_blocks: Callable[[int], Iterator[Buffer]]
    _pending: int = field(default=0, repr=False)
    _stage: _Stage | None = field(default=None, repr=False)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return byte_count(self.dtype, self.shape)

    def blocks(self, multiple: int = 1) -> Iterator[Buffer]:
        """Yield the bytes in order, in blocks of about 8 MiB.

        Args:
            multiple: every block's size is a multiple of this many bytes; give ``nbytes`` to get
                all in one block.
        """
        return self.open_blocks(multiple)

    def raw(self) -> Buffer:
        """Give all bytes at once."""
        if not self.nbytes:
            return b""
        blocks = self.blocks(self.nbytes)
        found = next(blocks)
        for _ in blocks:  # a computation reports what it did at its end
            pass
        return found

    def array(self) -> np.ndarray:
        """Give the values to compute with: float32, or float64 for ``F64``; may be read-only.

        Raises:
            CheckpointError: the elements are not of a computable float type.
        """
        return decode(self.raw(), self.dtype).reshape(self.shape)

    def torch(self) -> torch.Tensor:
        """Give a ``torch.Tensor`` of the stored type that shares no memory with anything else.

        Raises:
            CheckpointError: the installed torch has no such type.
        """
        import torch

        dtype = torch_dtypes().get(self.dtype)
        if dtype is None:
            raise CheckpointError(f"the installed torch has no type for {self.dtype}")
        if not self.nbytes:
            return torch.empty(self.shape, dtype=dtype)
        raw = np.frombuffer(self.raw(), np.uint8)
        own = raw if raw.flags.writeable and raw.base is None else raw.copy()
        return torch.from_numpy(own).view(dtype).reshape(self.shape)

    @classmethod
    def from_source(
        cls, dtype: str, shape: tuple[int, ...], source: ByteSource, offset: int
    ) -> StoredTensor:
        """Describe bytes that lie in a file or pipe, ``offset`` bytes from its beginning."""
        return cls.from_reader(
            dtype, shape, lambda first, count: source.read(offset + first, count)
        )

    @classmethod
    def from_reader(
        cls, dtype: str, shape: tuple[int, ...], read: Callable[[int, int], Buffer]
    ) -> StoredTensor:
        """Describe bytes that ``read(first, count)`` gives, at any position."""
        total = byte_count(dtype, shape)

        def blocks(multiple: int) -> Iterator[Buffer]:
            step = _step(multiple)
            for begin in range(0, total, step):
                yield read(begin, min(step, total - begin))

        return cls(dtype, shape, blocks)

    @classmethod
    def from_bytes(
        cls, dtype: str, shape: tuple[int, ...], load: Callable[[], Buffer]
    ) -> StoredTensor:
        """Describe bytes that come all at once, when ``load`` is called."""

        def blocks(multiple: int) -> Iterator[Buffer]:
            view, step = memoryview(load()).cast("B"), _step(multiple)
            for begin in range(0, len(view), step):
                yield view[begin : begin + step]

        return cls(dtype, shape, blocks)

    def after(self, before: StoredTensor) -> StoredTensor:
        """Give the same tensor, computed from another one however many steps that one took.

        Each step reads the one before it in a call of its own, and calls cannot be nested without
        end: every so many steps, the steps below are computed first.
        """
        pending = before._pending + 1
        if pending < _MAX_NESTED:
            return replace(self, _pending=pending, _stage=before._stage)
        stage = _Stage(self, before._stage)
        return replace(self.from_bytes(self.dtype, self.shape, stage.load), _stage=stage)

    @classmethod
    def from_array(cls, values: np.ndarray, dtype: str) -> StoredTensor:
        """Hold float values, rounded to ``dtype``."""
        data = encode(values, dtype)
        return cls.from_bytes(dtype, values.shape, lambda: data)


_MAX_NESTED = 50


@dataclass(eq=False)
class _Stage:
    """A tensor after some of its steps; it reads the stage below it, which is computed first.

    Attributes:
        tensor: computed from the stage below.
        below: that stage; None for the first.
        held: the bytes, while the stage above is computed.
    """

    tensor: StoredTensor
    below: _Stage | None
    held: bytes | None = None

    def load(self) -> Buffer:
        if self.held is not None:
            return self.held
        stages: list[_Stage] = [self]
        while stages[-1].below is not None:
            stages.append(stages[-1].below)
        data, before = b"", None
        for stage in reversed(stages):
            data = bytes(stage.tensor.raw())
            stage.held = data
            if before is not None:
                before.held = None
            before = stage
        self.held = None
        return data


def _step(multiple: int) -> int:
    return max(1, BLOCK_BYTES // multiple) * multiple


REPEATED = 64 << 20
"""Bytes that an expanded tensor may take where its data take fewer."""


def from_torch(tensor: torch.Tensor, name: str) -> StoredTensor:
    """Describe a tensor; its bytes are taken when they are read.

    Raises:
        CheckpointError: it is sparse, quantised, without data, of a type that safetensors cannot
            store, or far larger than what it repeats.
    """
    import torch

    codes = dtype_names()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in codes:
        raise CheckpointError(
            f"tensor {name!r} is {tensor.layout} of type {tensor.dtype}, "
            "which safetensors cannot store; make it a plain dense tensor first"
        )
    if tensor.is_meta:
        raise CheckpointError(f"tensor {name!r} has a shape but no data; save the loaded network")
    held = tensor.untyped_storage().nbytes()
    if tensor.nbytes > max(held, REPEATED):
        raise CheckpointError(
            f"tensor {name!r} repeats {held} bytes until they are {tensor.nbytes}; "
            "save a contiguous copy of it, if that is right"
        )
    detached = tensor.detach()

    def load() -> Buffer:
        flat = detached.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy() if flat.numel() else b""

    return StoredTensor.from_bytes(codes[tensor.dtype], tuple(tensor.shape), load)
