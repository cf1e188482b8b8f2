"""Reading a safetensors file or stream: the header now, each tensor when it is asked for."""

from __future__ import annotations

from filtersurgeon.checkpoint.bytesource import ByteSource
from filtersurgeon.checkpoint.checkpoint import Checkpoint, describe
from filtersurgeon.checkpoint.header import LENGTH_BYTES, Header, header_length, parse_header
from filtersurgeon.checkpoint.tensor import StoredTensor


def read_header(source: ByteSource) -> tuple[Header, int]:
    """Read and check the header; gives it and the position at which the data begin.

    Raises:
        CheckpointError: the source is not a whole safetensors file.
    """
    length = header_length(source.peek(LENGTH_BYTES), source.name)
    header = parse_header(source.read(LENGTH_BYTES, length).tobytes(), source.name)
    start = LENGTH_BYTES + length
    source.expect_size(start + header.data_bytes)
    return header, start


def read_safetensors(source: ByteSource) -> Checkpoint:
    """Describe every tensor of a safetensors file or stream without reading any.

    Raises:
        CheckpointError: the source is not a whole safetensors file.
    """
    header, start = read_header(source)
    tensors = {
        name: StoredTensor.from_source(entry.dtype, entry.shape, source, start + entry.begin)
        for name, entry in header.entries.items()
    }
    return Checkpoint(
        tensors,
        source.name,
        **describe(header.metadata, source.name),
        _finish=source.finish,
        _close=source.close,
    )
