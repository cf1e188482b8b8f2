"""Archives of ``torch.save``, as zip files and as rows of pickles, read without torch."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from io import SEEK_END, BytesIO
from typing import IO, Any

from filtersurgeon.checkpoint import torchscript
from filtersurgeon.checkpoint.archive_tensors import Member, Storage
from filtersurgeon.checkpoint.bytesource import BoundedFile, ByteSource
from filtersurgeon.checkpoint.checkpoint import MOST_TENSORS
from filtersurgeon.checkpoint.pickle_machine import Machine, UnsafeName, storage_of
from filtersurgeon.errors import CheckpointError

TAR = "it is a tar archive, as PyTorch wrote before version 0.4; load and save it anew there"
_TAR_MARK = (257, b"ustar")
_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001
_ENCRYPTED = 1
_LOCAL_HEADER = 30  # bytes before the name of a part of a zip file
_LARGEST_PICKLE = 1 << 29
_MOST_PARTS = 10 * MOST_TENSORS
"""A training's state has several tensors for each of the network."""
_FOREIGN = "it was written on a machine of the other byte order"


def open_archive(source: ByteSource) -> Any:
    """Read what an archive holds, but for the data of its tensors.

    Args:
        source: the archive.

    Returns:
        As :meth:`Machine.run`; the tensors are read from ``source``, which stays open.

    Raises:
        UnsafeName: it holds more than tensors and plain values.
        CheckpointError: it is of a kind that cannot be read.
        ValueError: it is damaged.
    """
    file = source.file()
    place, mark = _TAR_MARK
    file.seek(place)
    if file.read(len(mark)) == mark:
        raise ValueError(TAR)
    file.seek(0)
    try:
        if source.peek(2) == b"PK":
            return _read_zip(source, file)
        return _read_row(source, BoundedFile(file))
    except (UnsafeName, CheckpointError, MemoryError, ValueError):
        raise
    except Exception as error:
        # zipfile reports a damaged directory by almost any class.
        raise ValueError(str(error) or type(error).__name__) from None


def _read_zip(source: ByteSource, file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    if len(entries) > _MOST_PARTS:
        raise CheckpointError(
            f"{source.name} is an archive of {len(entries):,} parts, and at most {_MOST_PARTS:,} "
            "are read; save the state dict of one network"
        )
    if any(entry.flag_bits & _ENCRYPTED for entry in entries):
        raise ValueError("it is encrypted; unpack it, and zip it again without a password")
    scripted = torchscript.is_torchscript(entry.filename for entry in entries)
    if scripted:  # the code beside its tensors may be compressed
        entries = [entry for entry in entries if not torchscript.is_code(entry.filename)]
    if entries and all(entry.filename.endswith(".npy") for entry in entries):
        raise CheckpointError(
            f"{source.name} holds arrays of NumPy, not a network of safetensors or torch; "
            "write them to one with safetensors.numpy.save_file"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{source.name} was compressed after it was saved, and torch would read its tensors "
            "wrong; unpack it, and zip it again without compression (zip -0)"
        )
    named = {entry.filename: entry for entry in entries}
    if len(named) < len(entries):
        raise ValueError("two of its parts have one name")
    pickles = [name for name in named if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        raise ValueError("it holds no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    size = file.seek(0, SEEK_END)
    members: dict[str, Member] = {}

    def find(name: str) -> Member:
        if name not in members:
            members[name] = _member(source, named[name], size)
        return members[name]

    def storage(kind: object, key: object, _location: object, count: object) -> Storage:
        found = storage_of(kind, count)
        if f"{folder}data/{key}" not in named or not isinstance(key, str):
            raise ValueError("it lacks the data of a tensor")
        found.member = find(f"{folder}data/{key}")
        if found.member.size < found.nbytes:
            raise ValueError("the data of a tensor are truncated")
        return found

    if f"{folder}byteorder" in named and _content(find(f"{folder}byteorder")) != b"little":
        raise ValueError(_FOREIGN)
    content = BytesIO(_content(find(pickles[0])))
    if not scripted:
        return Machine(content, storage).run()
    root = Machine(content, storage, torchscript.NAMES).run()
    return torchscript.collect_tensors(root, torchscript.declared_tensors(file), source.name)


def _member(source: ByteSource, entry: zipfile.ZipInfo, size: int) -> Member:
    """Find the bytes of a part that is stored as it is."""
    begin = entry.header_offset + _LOCAL_HEADER
    if not 0 <= entry.header_offset <= size - _LOCAL_HEADER:
        raise ValueError("one of its parts lies outside of it")
    header = source.read(entry.header_offset, _LOCAL_HEADER).tobytes()
    if header[:4] != b"PK\3\4":
        raise ValueError("one of its parts is not where its directory says")
    begin += sum(int.from_bytes(header[at : at + 2], "little") for at in (26, 28))
    if begin + entry.file_size > size or entry.compress_size != entry.file_size:
        raise ValueError("its parts are larger than the whole")
    # torch can be told to leave checksums out, and writes zeros.
    return Member(source, begin, entry.file_size, entry.CRC or None)


def _content(member: Member) -> bytes:
    """Read a small part, and compare it with its checksum."""
    if member.size > _LARGEST_PICKLE:
        raise ValueError(f"its pickle takes more than {_LARGEST_PICKLE:,} bytes")
    data = member.source.read(member.begin, member.size).tobytes()
    if member.checksum is not None and zlib.crc32(data) != member.checksum:
        raise ValueError("a part does not match its checksum; copy the file again")
    return data


def _read_row(source: ByteSource, file: Any) -> Any:
    """Read an archive of the old kind: pickles, and the data of the storages behind them."""
    storages: dict[str, list[Storage]] = {}

    def storage(
        kind: object, key: object, _location: object, count: object, view: object = None
    ) -> Storage:
        found = storage_of(kind, count)
        if not isinstance(key, str):
            raise ValueError("the data of a tensor have no name")
        if view is not None:
            if not isinstance(view, tuple) or len(view) != 3:
                raise ValueError("a part of a storage is damaged")
            _, first, part = view
            whole, found = found, storage_of(kind, part)
            found.first = _first(first, part, whole)
        storages.setdefault(key, []).append(found)
        return found

    def read(find: Callable[..., Storage] | None = None) -> Any:
        return Machine(file, find).run()

    if read() != _MAGIC:
        raise ValueError("it is a pickle that torch.save did not write")
    if read() != _VERSION:
        raise ValueError("it has an unknown version")
    system = read()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError(_FOREIGN)
    content, keys = read(storage), read()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("the names of its data are damaged")
    for key in dict.fromkeys(keys):
        if key not in storages:
            raise ValueError("it lacks the tensor of some data")
        count = int.from_bytes(file.read(8), "little", signed=True)
        nbytes = count * storages[key][0].itemsize
        begin = file.tell()
        if count < 0 or file.seek(0, SEEK_END) < begin + nbytes:
            raise ValueError("it is truncated")
        file.seek(begin + nbytes)
        for found in storages[key]:
            found.member = Member(source, begin, nbytes)
            if found.first * found.itemsize + found.nbytes > nbytes:
                raise ValueError("the data of a tensor are truncated")
    return content


def _first(given: object, part: object, whole: Storage) -> int:
    if not isinstance(given, int) or not isinstance(part, int):
        raise ValueError("a part of a storage is damaged")
    if not 0 <= given <= whole.count - part:
        raise ValueError("a part of a storage lies outside of it")
    return given
