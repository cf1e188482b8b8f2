"""One tensor of a checkpoint: its description, and its bytes when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.checkpoint.bytesource import ByteSource
from filtersurgeon.checkpoint.dtypes import Buffer, byte_count, decode, encode, torch_dtypes
from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    import torch

BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose bytes are fetched or computed only when they are read.

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
        return next(self.blocks(self.nbytes)) if self.nbytes else b""

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
        total = byte_count(dtype, shape)

        def blocks(multiple: int) -> Iterator[Buffer]:
            step = _step(multiple)
            for begin in range(0, total, step):
                yield source.read(offset + begin, min(step, total - begin))

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

    @classmethod
    def from_array(cls, values: np.ndarray, dtype: str) -> StoredTensor:
        """Hold float values, rounded to ``dtype``."""
        data = encode(values, dtype)
        return cls.from_bytes(dtype, values.shape, lambda: data)


def _step(multiple: int) -> int:
    return max(1, BLOCK_BYTES // multiple) * multiple
