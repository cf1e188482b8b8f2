"""Tensors of PyTorch archives, described by their pickles and read from the file by position."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from math import prod

import numpy as np

from filtersurgeon.checkpoint.bytesource import CHUNK, ByteSource
from filtersurgeon.checkpoint.tensor import BITS, REPEATED, TORCH_NAMES, Buffer, StoredTensor
from filtersurgeon.errors import CheckpointError

STORAGES = {
    "Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Long": "I64", "Int": "I32",
    "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL", "ComplexFloat": "C64",
    "Untyped": "U8",
}  # fmt: skip
"""Types of elements by torch's names of storages."""
OTHER_STORAGES = {"ComplexDouble": 16, "QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1,
                  "QUInt2x4": 1}  # fmt: skip
"""Bytes per element of types that safetensors cannot store."""
DTYPES = {f"torch.{name}": code for code, name in TORCH_NAMES.items()}
"""Types of elements by torch's names of types."""


_LARGEST = 2**63


@dataclass(eq=False)
class Member:
    """A run of bytes of an archive that tensors lie in.

    Attributes:
        source: the file.
        begin: where the bytes begin in it.
        size: how many there are.
        checksum: their CRC-32; None where the archive has none.
    """

    source: ByteSource
    begin: int
    size: int
    checksum: int | None = None
    _checked: bool = field(default=False, repr=False)

    def check(self, name: str) -> None:
        """Compare the bytes with their checksum, once.

        Args:
            name: of the tensor that is to be read, for the error.

        Raises:
            CheckpointError: they differ, or the file has become shorter.
        """
        if self._checked or self.checksum is None:
            return
        found = 0
        for position in range(0, self.size, CHUNK):
            count = min(CHUNK, self.size - position)
            found = zlib.crc32(self.source.read(self.begin + position, count), found)
        if found != self.checksum:
            raise CheckpointError(
                f"{self.source.name} is corrupt: the data of tensor {name!r} do not match their "
                "checksum; copy the file again"
            )
        self._checked = True


@dataclass(eq=False)
class Storage:
    """The memory that tensors of an archive share.

    Attributes:
        kind: torch's name of its class, such as ``Float``.
        count: elements of that type.
        member: where its bytes are; None until that is known.
        first: elements that are skipped at the member's beginning.
    """

    kind: str
    count: int
    member: Member | None = None
    first: int = 0

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        if self.kind in STORAGES:
            return BITS[STORAGES[self.kind]] // 8
        return OTHER_STORAGES[self.kind]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.count * self.itemsize


@dataclass(frozen=True, eq=False)
class OddTensor:
    """A tensor that is no plain array of numbers.

    Attributes:
        kind: what it is.
    """

    kind: str

    def numel(self) -> int | None:
        """Give the number of elements, which is not known."""
        return None

    def stored(self, name: str) -> StoredTensor:
        """Refuse it by its name."""
        if self.kind == "meta":
            raise CheckpointError(
                f"tensor {name!r} has a shape but no data; save the loaded network"
            )
        raise CheckpointError(
            f"tensor {name!r} is {self.kind}, which safetensors cannot store; "
            "make it a plain dense tensor first"
        )


@dataclass(frozen=True, eq=False)
class ArchiveTensor:
    """A strided view of a storage.

    Attributes:
        storage: the storage.
        dtype: the name that safetensors gives the element type.
        offset: of the first element, in elements.
        shape: the axes.
        strides: of the axes, in elements.
        conjugated: the values are the complex conjugates of what is stored.
        negated: the values are the negatives of what is stored.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False

    @property
    def span(self) -> int:
        """Elements from the first to the last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return BITS[self.dtype] // 8

    def numel(self) -> int:
        """Give the number of elements."""
        return prod(self.shape)

    def stored(self, name: str) -> StoredTensor:
        """Describe the tensor; its bytes are read when they are asked for.

        Args:
            name: what errors call it.

        Raises:
            CheckpointError: it is far larger than what it repeats, or lies outside its data.
        """
        storage, item = self.storage, self.itemsize
        size = prod(self.shape) * item
        if size > max(storage.nbytes, REPEATED):
            told = size if size <= _LARGEST else f"more than {_LARGEST}"
            raise CheckpointError(
                f"tensor {name!r} repeats {storage.nbytes} bytes until they are {told}; "
                "save a contiguous copy of it, if that is right"
            )
        end = storage.first * storage.itemsize + (self.offset + self.span) * item
        member = storage.member
        if member is None or (size and end > member.size):
            raise CheckpointError(f"tensor {name!r} lies outside the data of the archive")

        def read(first: int, count: int) -> np.ndarray:
            assert member is not None
            member.check(name)
            begin = member.begin + storage.first * storage.itemsize + self.offset * item
            return member.source.read(begin + first, count)

        plain = not (self.conjugated or self.negated)
        if plain and self._is_contiguous():
            return StoredTensor.from_reader(self.dtype, self.shape, read)

        def load() -> Buffer:
            data = read(0, self.span * item)
            return self._gather(data) if len(data) else b""

        return StoredTensor.from_bytes(self.dtype, self.shape, load)

    def _is_contiguous(self) -> bool:
        expected = 1
        for count, step in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if count != 1 and step != expected and 0 not in self.shape:
                return False
            expected *= count
        return True

    def _gather(self, data: np.ndarray) -> np.ndarray:
        """Put the elements in order; gives bytes."""
        item = self.itemsize
        elements = np.frombuffer(data, f"<u{item}")
        view = np.lib.stride_tricks.as_strided(
            elements, self.shape, [step * item for step in self.strides], writeable=False
        )
        flat = np.array(view, order="C").reshape(-1)
        if self.dtype == "C64":
            halves = flat.view("<u4").reshape(-1, 2)
            # Signs of both parts, and of the imaginary part.
            halves ^= np.array(
                [self.negated << 31, (self.negated ^ self.conjugated) << 31], np.uint32
            )
        elif self.negated:
            flat ^= flat.dtype.type(1 << (8 * item - 1))
        return flat.view(np.uint8)
