"""Reading ``.pt``, ``.pth`` and ``.bin`` archives without running what they contain.

A pickle is a program, so the names that it mentions are found without unpickling it, before torch's
own check. Only names from which tensors, and the plain values beside them, are made pass; so no
name reaches a loader, whatever version of torch is installed, that could run code.
"""

from __future__ import annotations

import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from io import SEEK_END, BytesIO
from typing import IO, Any

from filtersurgeon.checkpoint import torchscript
from filtersurgeon.checkpoint.bytesource import ByteSource
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.checkpoint.wrapped_names import unwrapped_names
from filtersurgeon.errors import CheckpointError

HARMLESS = re.compile(
    r"collections\.(OrderedDict|Counter)"
    r"|(builtins|__builtin__)\.(bytearray|complex|set)|_codecs\.encode"
    r"|torch\.(cuda\.)?(sparse\.)?[A-Z]?[A-Za-z0-9]*(Storage|Tensor)"
    r"|torch\.(Size|device|bool|(b?float|u?int|qu?int|complex|bits)\d\w*|per_(tensor|channel)_\w+)"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.nn\.parameter\.Parameter|torch\.serialization\._get_layout"
    r"|torch\.storage\.(Typed|Untyped)Storage"
    r"|argparse\.Namespace|numpy\.dtype|numpy\.(_core|core)\.multiarray\.scalar"
)
"""Names that a state dict needs."""

_NAME_LENGTH = 200
_OLD_PARTS = 5  # magic number, version, machine, content, and the keys of the storages
_OTHER_CODE = frozenset({"INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"})


def find_unsafe_name(pickled: bytes) -> str | None:
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


def find_unsafe_name_in_old(file: IO[bytes]) -> str | None:
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


class Unread:
    """Stands for a plain value of a training script, such as its options; nothing is kept."""

    def __init__(self, *arguments: object, **options: object) -> None:
        """Take what the value would be made from."""

    def __setstate__(self, state: object) -> None:
        """Take the value's content, and keep none of it."""


def _stand_in(module: str, name: str) -> type:
    """Make the object that is put in the place of a class that a file names."""
    return type(name, (Unread,), {"__module__": module})


_UNREAD: tuple[Any, ...] = (
    _stand_in("argparse", "Namespace"),
    _stand_in("numpy._core.multiarray", "scalar"),
    _stand_in("numpy.core.multiarray", "scalar"),
    _stand_in("numpy", "dtype"),
)


# Where training scripts keep the weights, the averaged ones first, as timm prefers them.
WRAPPERS = ("state_dict_ema", "ema_state_dict", "model_ema", "params_ema", "ema", "state_dict",
            "model_state_dict", "model_state", "model", "params", "module")  # fmt: skip
_COUNTERS = re.compile(r"n_averaged|(.*\.)?total_(ops|params)")
"""Entries of ``AveragedModel``, and of thop, which counts operations."""
_LISTED = 8
_MAX_DEPTH = 4  # of wrappers in wrappers; a hostile one may hold itself
_TRAINING = re.compile(r"^(?!.*\.).*(optim|sched|scaler|rng|loss|metric|hyper|history)", re.I)
"""Names of a training's own state beside the weights, which may hold tensors of its own."""
_FIGURE = re.compile(r"^(?!.*\.).*(epoch|step|iter|acc|best|seed|time)", re.I)
"""Names of single numbers that a training keeps."""


PREFIX_BYTES = 9
"""How many of its first bytes tell the format of a file."""


def looks_pickled(prefix: bytes) -> bool:
    """Tell from its first bytes whether a file is a PyTorch archive, old or new."""
    # The length of a safetensors header, 640 bytes for one, may begin as an archive does.
    if prefix[4:PREFIX_BYTES] == b"\0\0\0\0{":
        return False
    return prefix[:4] == b"PK\x03\x04" or (prefix[:1] == b"\x80" and prefix[1:2] in b"\2\3\4\5")


def read_pickled(
    source: ByteSource, allow_pickle: bool = False, key: str | None = None
) -> Checkpoint:
    """Read a PyTorch archive and find the state dict in it.

    Args:
        source: the archive.
        allow_pickle: run the code that it may contain. Only for files from people you trust.
        key: of the entry that holds the weights; points lead into entries of entries.

    Raises:
        CheckpointError: it holds code, is corrupt, or has no state dict.
    """
    content = unpickle(source, allow_pickle)
    source.close()
    state, names, note = find_state_dict(content, source.name, key)
    tensors = {name: from_torch(tensor, name) for name, tensor in state.items()}
    return Checkpoint(tensors, source.name, notes=(note,) if note else (), stored_names=names)


def unpickle(source: ByteSource, allow_pickle: bool = False) -> object:
    """Give what an archive holds, whatever it is; raises CheckpointError as ``read_pickled``."""
    file = source.file()
    # Archives of torch >= 1.6 are mapped, so that tensors nobody asks for are never read.
    mapped = source.peek(4)[:2] == b"PK"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = _check(file, source.name, mapped, allow_pickle)
            import torch

            if scripted is not None:
                return _read_torchscript(file, source.name, scripted)
            place = f"/dev/fd/{file.fileno()}" if mapped else file
            if allow_pickle:
                return torch.load(place, map_location="cpu", weights_only=False, mmap=mapped)
            allowed = getattr(torch.serialization, "safe_globals", None)  # since torch 2.5
            with allowed(list(_UNREAD)) if allowed else nullcontext():
                return torch.load(place, map_location="cpu", weights_only=True, mmap=mapped)
    except (CheckpointError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        text = _text(error)
        if allow_pickle:
            raise CheckpointError(f"{source.name} is corrupt: {text}") from None
        found = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"type (\S+)", text)
        raise _refusal(source.name, found.group(1) if found else "code") from None
    except Exception as error:
        # torch reports a damaged archive by almost any class, depending on the damaged byte.
        text = _text(error)
        reason = text.strip().splitlines()
        asked = re.search(r"allocate (\d+) bytes", text)
        if asked and int(asked.group(1)) <= 2 * os.fstat(file.fileno()).st_size:
            raise MemoryError from None
        raise CheckpointError(
            f"{source.name} is not a PyTorch archive that can be read: "
            f"{reason[0][:200] if reason else type(error).__name__}"
        ) from None


def _text(error: Exception) -> str:
    """Give an error's message, which may be an object of the archive that holds itself."""
    try:
        return str(error)
    except RecursionError:
        return ""


def _read_torchscript(file: IO[bytes], name: str, names: list[str]) -> dict[str, Any]:
    """Read the tensors of a TorchScript archive; its code is neither run nor given to torch."""
    import torch

    declared = torchscript.declared_tensors(file)
    allowed = torch.serialization.safe_globals(torchscript.stand_ins(names))
    with torchscript.without_code(file) as archive, allowed:
        place = f"/dev/fd/{archive.fileno()}"
        content = torch.load(place, map_location="cpu", weights_only=True, mmap=True)
    return torchscript.collect_tensors(content, declared, name)


def _check(file: IO[bytes], name: str, zipped: bool, allow_pickle: bool) -> list[str] | None:
    """Look at an archive before torch does.

    Returns:
        What a TorchScript archive mentions; None for other archives.

    Raises:
        CheckpointError: it holds code.
        ValueError: it is damaged.
    """
    if zipped:
        pickled, scripted = _content_of_zip(file, name)
        if scripted:
            names = list(_names(_Bounded(BytesIO(pickled))))
            found = _first(iter(n for n in names if not torchscript.NAMES.fullmatch(n)))
            if found:
                raise _refusal(name, found)
            return names
        found = None if allow_pickle else find_unsafe_name(pickled)
    else:
        found = None if allow_pickle else find_unsafe_name_in_old(file)
    file.seek(0)
    if found:
        raise _refusal(name, found)
    return None


def _content_of_zip(file: IO[bytes], name: str) -> tuple[bytes, bool]:
    """Give the pickle of an archive of the present kind, once its directory makes sense.

    Also tells whether TorchScript wrote it; the code beside its tensors may be compressed.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        scripted = torchscript.is_torchscript(entry.filename for entry in entries)
        if scripted:
            entries = [entry for entry in entries if not torchscript.is_code(entry.filename)]
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(
                f"{name} was compressed after it was saved, and torch would read its tensors "
                "wrong; unpack it, and zip it again without compression (zip -0)"
            )
        # What a directory claims is allocated before it turns out that the bytes are missing.
        claimed = sum(max(entry.file_size, entry.compress_size) for entry in entries)
        if claimed > os.fstat(file.fileno()).st_size:
            raise ValueError("its parts are larger than the whole")
        if len({entry.filename for entry in entries}) < len(entries):
            raise ValueError("two of its parts have one name")
        pickles = [entry for entry in entries if entry.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("it holds no data.pkl")
        return archive.read(pickles[0]), scripted


def _refusal(name: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{name} holds a pickled {what}, and opening it could run any code; "
        "save its state_dict instead, or, if you trust where it comes from, "
        "pass `allow_pickle`"
    )


def find_state_dict(
    content: object, source: str, key: str | None = None
) -> tuple[dict[str, Any], dict[str, str], str]:
    """Unwrap what training scripts save around a state dict.

    Args:
        content: the unpickled object: a state dict, a dict that holds one under a usual name
            (an average of weights is preferred, as in timm) or as its only one, or a module.
        source: what messages call it.
        key: the entry to take, where the usual names do not decide.

    Returns:
        Name -> tensor, with the prefixes of wrappers (``module.``, ``_orig_mod.``) removed; the
        names that these had before, where they differ; and a remark on what was chosen, removed or
        left out, or an empty string.

    Raises:
        CheckpointError: there are no tensors with names, or several networks.
    """
    import torch

    remarks: list[str] = []
    if key is not None:
        content = _entry(content, key, source)
        remarks.append(f"took the weights under {key!r}")
    while True:
        if isinstance(content, torch.nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{source} holds a {type(content).__name__}, not a state dict; "
                "save model.state_dict()"
            )
        found = next((k for k in WRAPPERS if _holds_tensors(content.get(k))), None)
        if found is None:
            found = _only_entry(content, source)
        if found is None or len(remarks) > _MAX_DEPTH:
            break
        content = content[found]
        remarks.append(f"took the weights under {found!r}")
    state = {
        str(k): v
        for k, v in content.items()
        if isinstance(v, torch.Tensor) and isinstance(k, str | int)
    }
    if not state:
        raise CheckpointError(f"{source} holds no tensors; save model.state_dict()")
    _check_left_out(content, source)
    if len(state) < len(content):
        remarks.append(f"left out {len(content) - len(state)} entries that are no tensors")
    state, names = _without_wrappers(state, source, remarks)
    if any(not _is_text(name) for name in state):
        raise CheckpointError(f"{source} is corrupt: the name of a tensor is no text")
    return state, names, f"{source}: {', '.join(remarks)}" if remarks else ""


def _entry(content: object, key: str, source: str) -> object:
    """Give the entry that the user chose; raises CheckpointError where there is none."""
    left = key
    while left:
        known = [str(k) for k in content if _holds_tensors(content[k])] if isinstance(
            content, Mapping
        ) else []  # fmt: skip
        name = next((k for k in known if left == k or left.startswith(f"{k}.")), None)
        if name is None:
            listed = ", ".join(known[:_LISTED]) or "none"
            raise CheckpointError(
                f"{source} has no weights under {key!r}; `key` may be one of: {listed}"
            )
        assert isinstance(content, Mapping)
        content = next(v for k, v in content.items() if str(k) == name)
        left = left[len(name) + 1 :]
    return content


def _only_entry(content: Mapping[Any, Any], source: str) -> Any:
    """Give the key of the one state dict in a dictionary without tensors; None if there is none.

    Raises:
        CheckpointError: there are several.
    """
    import torch

    if any(
        isinstance(value, torch.Tensor) and not _is_told_beside(str(key), value)
        for key, value in content.items()
    ):
        return None
    found = [
        key
        for key, value in content.items()
        if not _TRAINING.search(str(key)) and _holds_tensors(value)
    ]
    if len(found) > 1:
        listed = ", ".join(str(key) for key in found[:_LISTED])
        raise CheckpointError(f"{source} holds several networks ({listed}); choose one with `key`")
    return found[0] if found else None


def _is_told_beside(key: str, value: Any) -> bool:
    """Tell whether a tensor beside dictionaries is a training's own, such as a random state."""
    return bool(_TRAINING.search(key) or (value.numel() == 1 and _FIGURE.search(key)))


def _without_wrappers(
    state: dict[str, Any], source: str, remarks: list[str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Remove what wrappers put into names, and the tensors that they count in.

    Returns:
        The tensors, and the names that they had, where these differ.

    Raises:
        CheckpointError: two tensors would have one name.
    """
    averaged = "n_averaged" in state and all(
        name == "n_averaged" or name.startswith("module.") for name in state
    )
    kept = {
        name: tensor
        for name, tensor in state.items()
        if not _COUNTERS.fullmatch(name) or (name == "n_averaged" and not averaged)
    }
    if kept and len(kept) < len(state):
        remarks.append(f"left out {len(state) - len(kept)} counters (n_averaged, total_ops)")
        state = kept
    names = unwrapped_names(state, source)
    found = {bare: state[name] for name, bare in names.items()}
    stored = {bare: name for name, bare in names.items() if bare != name}
    if stored:
        remarks.append(f"removed the prefixes of wrappers from {len(stored)} names")
    return found, stored


def _check_left_out(content: Mapping[Any, Any], source: str) -> None:
    """Refuse a state dict of which weights would be left out.

    Raises:
        CheckpointError: an entry that is no tensor holds some, such as the packed parameters of a
            quantised layer; or a tensor's name is no text, or is there twice.
    """
    import torch

    names = set()
    for key, value in content.items():
        if isinstance(value, torch.Tensor):
            if not isinstance(key, str | int) or str(key) in names:
                raise CheckpointError(f"{source}: {key!r} is no name of its own for a tensor")
            names.add(str(key))
        elif not _TRAINING.search(str(key)) and _holds_weights(value, "." in str(key)):
            raise CheckpointError(
                f"{source}: {str(key)!r} holds weights in a {type(value).__name__} (quantised?), "
                "which would be lost; save a state dict of plain tensors"
            )


def _holds_weights(value: object, of_module: bool) -> bool:
    """Tell whether something that is no tensor may hold weights.

    Args:
        value: what it is, with all that is in it.
        of_module: it has the name of a module's entry. Objects of unknown classes then count as
            weights, for quantised layers pack theirs into some.
    """
    import numpy as np
    import torch

    plain = (str, bytes, int, float, complex, type(None), torch.dtype, torch.device, Unread)
    weights = (torch.Tensor, np.ndarray, torch.nn.Module, torch.ScriptObject)
    left, seen = [value], set()  # containers that hold themselves are looked into once
    while left:
        one = left.pop()
        if isinstance(one, weights):
            return True
        if isinstance(one, Mapping | list | tuple | set | frozenset):
            if id(one) not in seen:
                seen.add(id(one))
                left += one.values() if isinstance(one, Mapping) else one
        elif of_module and not isinstance(one, plain):
            return True
    return False


def _is_text(name: str) -> bool:
    """Tell whether a name can be written: a pickle may hold half a surrogate pair."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _holds_tensors(value: object, depth: int = _MAX_DEPTH) -> bool:
    import torch

    if isinstance(value, torch.nn.Module):
        return True
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(
        isinstance(v, torch.Tensor)
        or (not _TRAINING.search(str(k)) and _holds_tensors(v, depth - 1))
        for k, v in value.items()
    )
