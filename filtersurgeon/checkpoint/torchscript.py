"""TorchScript archives: their tensors, read without running their code.

Such an archive holds a pickle of module objects, and the source of their classes. The objects are
read as stand-ins. The source is only searched for the names of parameters and buffers, which tell
them from other tensors that modules hold.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable, Mapping
from typing import IO

from filtersurgeon.checkpoint.archive_tensors import ArchiveTensor, OddTensor
from filtersurgeon.checkpoint.pickle_machine import Part
from filtersurgeon.errors import CheckpointError

NAMES = re.compile(r"__torch__\.[\w.]+|torch\.jit\._pickle\.\w+")
"""Names that only pickles of TorchScript mention: classes of the archive, and typed lists."""

_MARK = re.compile(r"[^/]*/(code/.*\.py|constants\.pkl)")
_CODE = re.compile(r"[^/]*/code/(.*)\.py")
_KEPT = re.compile(r"[^/]*/(data\.pkl|data/[^/]*|version|byteorder|\.format_version)")
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = (\[.*\])\n  __buffers__ = (\[.*\])$", re.M
)
_WORD = re.compile(r'"([^"]*)"')
_MOST_CODE = 64 << 20  # bytes of source, which may be compressed
_MOST_NAMES = 200_000
_DEPTH = 100


def is_torchscript(names: Iterable[str]) -> bool:
    """Tell from the names of an archive's entries whether TorchScript wrote it."""
    return any(_MARK.fullmatch(name) for name in names)


def is_code(name: str) -> bool:
    """Tell whether an entry holds code, or others than tensors, and is never read as one."""
    return not _KEPT.fullmatch(name)


def declared_tensors(file: IO[bytes]) -> dict[str, list[str]]:
    """List the parameters and buffers of every class of an archive, by the class's full name.

    Raises:
        ValueError: there is more source than any network has.
    """
    found: dict[str, list[str]] = {}
    left = _MOST_CODE
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            place = _CODE.fullmatch(entry.filename)
            if place is None:
                continue
            with archive.open(entry) as opened:
                text = opened.read(left + 1)
            left -= len(text)
            if left < 0:
                raise ValueError("it holds too much source code")
            module = place.group(1).replace("/", ".")
            for name, parameters, buffers in _CLASS.findall(text.decode("utf-8", "replace")):
                found[f"{module}.{name}"] = _WORD.findall(parameters) + _WORD.findall(buffers)
    return found


def collect_tensors(
    root: object, declared: Mapping[str, list[str]], source: str
) -> dict[str, ArchiveTensor | OddTensor]:
    """Give the parameters and buffers of a module, as its ``state_dict`` does.

    Args:
        root: what the pickle holds.
        declared: of :func:`declared_tensors`.
        source: what messages call the archive.

    Raises:
        CheckpointError: there are none, or a layer keeps them in a form of its own.
    """
    found: dict[str, ArchiveTensor | OddTensor] = {}
    looked = 0
    left: list[tuple[object, tuple[str, ...], tuple[int, ...]]] = [(root, (), ())]
    while left:
        part, path, above = left.pop()
        # A module may be there under many names, and each name is looked into.
        looked += 1 + len(part.content or ()) if isinstance(part, Part) else 1
        if id(part) in above or len(above) > _DEPTH or looked + len(left) > _MOST_NAMES:
            raise CheckpointError(
                f"{source} is corrupt: a module of it holds itself, or too many others"
            )
        if not isinstance(part, Part):
            raise CheckpointError(f"{source} is corrupt: it holds no module")
        if part.content is None:
            raise CheckpointError(
                f"{source}: {'.'.join(path)!r} keeps its weights in a form of its own (quantised?);"
                " save the state dict of the network before it is converted"
            )
        names = declared.get(part.kind, [str(key) for key in part.content])
        looked += len(names)
        for name in names:
            if isinstance(tensor := part.content.get(name), ArchiveTensor | OddTensor):
                found[".".join((*path, name))] = tensor
        inner = [(str(k), v) for k, v in part.content.items() if isinstance(v, Part) and v.saved]
        left += [(v, (*path, key), (*above, id(part))) for key, v in reversed(inner)]
    if not found:
        raise CheckpointError(
            f"{source} holds no parameters by name, as it was frozen; "
            "save the module before torch.jit.freeze"
        )
    return found
