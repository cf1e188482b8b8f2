"""TorchScript archives: their tensors, read without running their code.

Such an archive holds a pickle of module objects, and the source of their classes. The objects are
read as stand-ins. The source is only searched for the names of parameters and buffers, which tell
them from other tensors that modules hold.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any

from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

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
_ALIGNED = 64


class Part:
    """Stands for a module of an archive, or another of its objects.

    Attributes:
        content: the attributes by name; None if the object was saved in a form of its own.
    """

    content: Mapping[Any, Any] | None = None
    saved = False

    def __init__(self, *arguments: object) -> None:
        """Take what a typed list would be made from."""

    def __setstate__(self, state: object) -> None:
        """Take the attributes."""
        self.content = state if isinstance(state, dict) else None
        self.saved = True


def is_torchscript(names: Iterable[str]) -> bool:
    """Tell from the names of an archive's entries whether TorchScript wrote it."""
    return any(_MARK.fullmatch(name) for name in names)


def is_code(name: str) -> bool:
    """Tell whether an entry holds code, which is never handed to torch."""
    return not _KEPT.fullmatch(name)


def stand_ins(names: Iterable[str]) -> list[Any]:
    """Make a class for every name of :data:`NAMES`."""
    split = (name.rpartition(".") for name in dict.fromkeys(names) if NAMES.fullmatch(name))
    return [type(name, (Part,), {"__module__": module}) for module, _, name in split]


def without_code(file: IO[bytes]) -> IO[bytes]:
    """Copy the pickle and the tensors to a temporary archive that is no TorchScript archive."""
    made = tempfile.TemporaryFile(prefix="fsurgeon-")  # noqa: SIM115 - held open
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(made, "w") as new:
        for entry in old.infolist():
            if is_code(entry.filename):
                continue
            copy = zipfile.ZipInfo(entry.filename)
            # Tensors are mapped, and begin at a multiple of their elements' size, as torch's do.
            head = made.tell() + 30 + len(copy.filename.encode()) + 4
            padding = -head % _ALIGNED
            copy.extra = b"FB" + padding.to_bytes(2, "little") + bytes(padding)
            copy.file_size = entry.file_size
            with old.open(entry) as source, new.open(copy, "w") as target:
                shutil.copyfileobj(source, target)
    made.flush()
    made.seek(0)
    return made


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
) -> dict[str, Tensor]:
    """Give the parameters and buffers of a module, as its ``state_dict`` does.

    Args:
        root: what the pickle holds.
        declared: of :func:`declared_tensors`.
        source: what messages call the archive.

    Raises:
        CheckpointError: there are none, or a layer keeps them in a form of its own.
    """
    from torch import Tensor

    found: dict[str, Tensor] = {}
    left: list[tuple[object, tuple[str, ...], tuple[int, ...]]] = [(root, (), ())]
    while left:
        part, path, above = left.pop()
        if id(part) in above or len(above) > _DEPTH or len(found) + len(left) > _MOST_NAMES:
            raise CheckpointError(f"{source} is corrupt: a module of it holds itself")
        assert isinstance(part, Part)
        if part.content is None:
            raise CheckpointError(
                f"{source}: {'.'.join(path)!r} keeps its weights in a form of its own (quantised?);"
                " save the state dict of the network before it is converted"
            )
        kind = f"{type(part).__module__}.{type(part).__qualname__}"
        for name in declared.get(kind, [str(key) for key in part.content]):
            if isinstance(tensor := part.content.get(name), Tensor):
                found[".".join((*path, name))] = tensor
        inner = [(str(k), v) for k, v in part.content.items() if isinstance(v, Part) and v.saved]
        left += [(v, (*path, key), (*above, id(part))) for key, v in reversed(inner)]
    if not found:
        raise CheckpointError(
            f"{source} holds no parameters by name, as it was frozen; "
            "save the module before torch.jit.freeze"
        )
    return found
