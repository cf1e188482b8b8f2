"""The safetensors format: the header now, each tensor when it is asked for.

A header is eight bytes of length, then JSON that describes every tensor. Reading trusts nothing: a
header that passes describes tensors that lie side by side, in order, without holes or overlaps, and
end where the data end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from filtersurgeon.checkpoint.bytesource import ByteSource
from filtersurgeon.checkpoint.checkpoint import NAMES, Checkpoint, check_count, describe, own_names
from filtersurgeon.checkpoint.documents import TooManyValues, parse_json
from filtersurgeon.checkpoint.tensor import BITS, StoredTensor, byte_count
from filtersurgeon.errors import CheckpointError, EmptyInputError

LENGTH_BYTES = 8
MAX_HEADER = 100_000_000  # the limit of the safetensors library
_POINTER = b"version "  # of Git LFS
_PAGES = (b"<!doctyp", b"<html")
_LIKELY = 1 << 40  # a longer one is no length, but another format


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: dtype name, shape, and byte offsets into the data section."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        entries: the tensors in the order of their bytes.
        metadata: the free strings of ``__metadata__``.
        data_bytes: size of the data section.
    """

    entries: Mapping[str, Entry]
    metadata: Mapping[str, str] = field(default_factory=dict)
    data_bytes: int = 0


def header_length(prefix: bytes, source: str) -> int:
    """Decode the leading length, refusing what cannot be a safetensors file.

    Args:
        prefix: the first bytes of the file: the length, and the one that follows it.
        source: what messages call the file.

    Raises:
        CheckpointError: fewer than eight bytes, or a length out of bounds.
    """
    if len(prefix) < LENGTH_BYTES:
        if prefix:
            raise CheckpointError(
                f"{source} is not a checkpoint: it ends after {len(prefix)} bytes"
            )
        raise EmptyInputError(f"{source} is empty: expected a checkpoint")
    length = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if MAX_HEADER < length <= _LIKELY and prefix[LENGTH_BYTES:] == b"{":
        raise CheckpointError(
            f"{source} has a safetensors header of {length:,} bytes, and at most {MAX_HEADER:,} "
            "are read; save the state dict of one network"
        )
    if prefix.startswith(_POINTER):
        raise CheckpointError(f"{source} is a pointer of Git LFS; run git lfs pull to get the file")
    if prefix.lower().startswith(_PAGES):
        raise CheckpointError(f"{source} is a web page, not a checkpoint; download the file itself")
    if not 2 <= length <= MAX_HEADER:
        raise CheckpointError(
            f"{source} is not a checkpoint that can be read: "
            "neither safetensors nor a PyTorch archive"
        )
    return length


def parse_header(text: bytes, source: str) -> Header:
    """Parse and check the JSON of a header.

    Raises:
        CheckpointError: anything that the format forbids, named.
    """
    try:
        table = parse_json(text.decode("utf-8"), pairs=_unique)
    except TooManyValues as error:
        raise CheckpointError(
            f"{source} has a safetensors header of {error}; save the state dict of one network"
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{source} has a corrupt safetensors header: {error}") from None
    if not isinstance(table, dict):
        raise CheckpointError(f"{source} has a corrupt safetensors header: not a JSON object")
    metadata = table.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{source} has corrupt metadata: every value must be a string")
    check_count(len(table), source)
    entries = {name: _entry(name, item, source) for name, item in table.items()}
    ordered = dict(sorted(entries.items(), key=lambda pair: (pair[1].begin, pair[1].end)))
    position = 0
    for name, entry in ordered.items():
        if entry.begin != position:
            raise CheckpointError(
                f"{source} is corrupt: tensor {name!r} begins at byte {entry.begin}, "
                f"but the one before it ends at {position}"
            )
        position = entry.end
    return Header(ordered, metadata, position)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name occurs twice")
    # JSON can spell half a surrogate pair, which no output could hold.
    "".join((*table, *(v for v in table.values() if isinstance(v, str)))).encode()
    return table


def _entry(name: str, item: object, source: str) -> Entry:
    if not isinstance(item, dict) or not {"dtype", "shape", "data_offsets"} <= item.keys():
        raise CheckpointError(f"{source} is corrupt: tensor {name!r} lacks dtype, shape or offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise CheckpointError(f"{source}: tensor {name!r} has the unknown dtype {dtype!r}")
    # A zero among the sizes must not hide others that no array can have.
    if not _counts(shape) or prod(filter(None, shape)) >= 2**63:
        raise CheckpointError(f"{source} is corrupt: tensor {name!r} has a bad shape")
    if not _counts(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{source} is corrupt: tensor {name!r} has bad offsets")
    begin, end = offsets
    try:
        expected = byte_count(dtype, tuple(shape))
    except ValueError as error:
        raise CheckpointError(f"{source} is corrupt: tensor {name!r}: {error}") from None
    if end - begin != expected:
        raise CheckpointError(
            f"{source} is corrupt: tensor {name!r} of type {dtype} and shape {shape} takes "
            f"{expected} bytes, but its offsets span {end - begin}"
        )
    return Entry(dtype, tuple(shape), begin, end)


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def format_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Write the header of tensors that follow one another in the given order.

    Args:
        tensors: name -> (dtype name, shape).
        metadata: strings for ``__metadata__``; left out when empty.

    Returns:
        Length and JSON, padded with spaces so that the data begin at a multiple of eight bytes.

    Raises:
        CheckpointError: it would be longer than any reader takes.
    """
    table: dict[str, object] = {}
    if metadata:
        table["__metadata__"] = dict(sorted(metadata.items()))
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + byte_count(dtype, shape)
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(
            f"names and metadata would take {len(text)} bytes, and safetensors holds "
            f"{MAX_HEADER}; write rankings to a JSON file of their own"
        )
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def read_header(source: ByteSource) -> tuple[Header, int]:
    """Read and check the header; gives it and the position at which the data begin.

    Raises:
        CheckpointError: the source is not a whole safetensors file.
    """
    length = header_length(source.peek(LENGTH_BYTES + 1), source.name)
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
    found = Checkpoint(
        tensors,
        source.name,
        **describe(header.metadata, source.name),
        _finish=source.finish,
        _close=source.close,
    )
    names = own_names(header.metadata, tensors, source.name)
    return found.renamed(names) if NAMES in header.metadata else found
