"""What a pickle mentions, found without unpickling it: a gate before torch's own.

A pickle is a program. Only names from which tensors, and the plain values beside them, are made
pass; so no name reaches a loader, whatever version of torch is installed, that could run code.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Iterator
from io import SEEK_END, BytesIO
from typing import IO

HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|(builtins|__builtin__)\.(bytearray|complex|set)|_codecs\.encode"
    r"|torch\.(cuda\.)?(sparse\.)?[A-Z]?[A-Za-z0-9]*(Storage|Tensor)"
    r"|torch\.(Size|device|bool|(b?float|u?int|qu?int|complex|bits)\d\w*|per_(tensor|channel)_\w+)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.storage\.(Typed|Untyped)Storage"
)
"""Names that a state dict needs."""

_NAME_LENGTH = 200
_OLD_PARTS = 5  # magic number, version, machine, content, and the keys of the storages
_OTHER_CODE = frozenset({"INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"})


def culprit(pickled: bytes) -> str | None:
    """Name the first thing in a pickle that is not needed for tensors; None if all is harmless.

    Raises:
        ValueError: it is no pickle.
    """
    return _first(_names(_Bounded(BytesIO(pickled))))


class _Bounded:
    """A file that is never asked for more bytes than it has, which would be allocated first."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size = file, file.seek(0, SEEK_END)
        file.seek(0)
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, max(self._size - self._file.tell(), 0)))


def culprit_of_old(file: IO[bytes]) -> str | None:
    """Do the same for an archive of the old kind, a row of pickles at a file's beginning.

    The file's position is moved.

    Raises:
        ValueError: it is no row of pickles.
    """
    bounded = _Bounded(file)
    for _ in range(_OLD_PARTS):
        found = _first(_names(bounded))
        if found:
            return found
    return None


def _first(names: Iterator[str]) -> str | None:
    return next((name for name in names if not HARMLESS.fullmatch(name)), None)


def _names(file: _Bounded) -> Iterator[str]:
    """Yield what a pickle would import, in order, up to its end."""
    words: list[str] = []
    try:
        for operation, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]
            if operation.name == "GLOBAL":
                yield _readable(str(argument).replace(" ", "."))
            elif operation.name == "STACK_GLOBAL":
                yield _readable(".".join(words[-2:]) or "name")
            elif operation.name in _OTHER_CODE:
                yield f"object ({operation.name})"
            elif isinstance(argument, str):
                words = [*words[-1:], argument]
    except MemoryError:
        raise
    except Exception as error:
        # The decoder of operations fails in many ways on bytes that are none.
        raise ValueError(str(error) or type(error).__name__) from None


def _readable(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."
