"""The pickle inside a PyTorch archive, whose checksum would hide a broken byte.

Seeds are those that torch writes, and short programs of what costs much: shared tuples as keys,
calls with numbers, and copies.
"""

import io
import pickle
import zipfile

from fuzz.readers.archive import contents, odd_contents, saved
from fuzz.readers.archive import read as read_archive


def _inner(whole: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return archive.read("archive/data.pkl")


def corpus() -> list[bytes]:
    return [_inner(saved(content)) for content in contents()]


def refused() -> list[bytes]:
    shared: object = ()
    for _ in range(40):
        shared = (shared, shared)
    own: list[object] = []
    own.append(own)
    return [
        *(_inner(saved(content)) for content in odd_contents()),
        b"\x80\x02}" + pickle.dumps(shared, 2)[2:-1] + b"Ns.",
        b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
        b"\x80\x04\x8c\x02osq\x00\x8c\x06systemq\x0100\x8c\x01xh\x00h\x01\x93\x85R.",
        *(pickle.dumps({"a": {1: own}, "b": (1.5, {2}, frozenset("c"), b"d")}, k) for k in (2, 5)),
    ]


def read(case: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as whole:
        whole.writestr("archive/data.pkl", case)
        whole.writestr("archive/byteorder", b"little")
        for number in range(3):
            whole.writestr(f"archive/data/{number}", bytes(72))
        whole.writestr("archive/version", b"3\n")
    read_archive(file.getvalue())
