"""Reading ``.pt``, ``.pth`` and ``.bin`` archives, and finding the state dict in them.

A pickle is a program, so it is read by a machine that knows only what tensors and the plain values
beside them need. A loader that could run code sees an archive only with ``allow_pickle``.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable, Mapping
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np

from filtersurgeon.checkpoint.archive_tensors import ArchiveTensor, OddTensor, Storage
from filtersurgeon.checkpoint.archives import TAR, open_archive
from filtersurgeon.checkpoint.arrays import FREE, GROWTH
from filtersurgeon.checkpoint.bytesource import ByteSource
from filtersurgeon.checkpoint.checkpoint import Checkpoint, check_count
from filtersurgeon.checkpoint.pickle_machine import Token, Unread, UnsafeName
from filtersurgeon.checkpoint.tensor import StoredTensor, from_torch
from filtersurgeon.checkpoint.wrapped_names import unwrapped_names
from filtersurgeon.errors import CheckpointError

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

    Tensors are read from the file when they are asked for, and compared with their checksums then.

    Args:
        source: the archive.
        allow_pickle: run the code that it may contain. Only for files from people you trust.
        key: of the entry that holds the weights; points lead into entries of entries.

    Raises:
        CheckpointError: it holds code, is corrupt, or has no state dict.
    """
    try:
        content = unpickle(source, allow_pickle)
        state, names, note = find_state_dict(content, source.name, key)
        tensors = {name: _stored(tensor, name) for name, tensor in state.items()}
        _check_repeated(state.values(), source.name)
    except BaseException:
        source.close()
        raise
    return Checkpoint(
        tensors,
        source.name,
        notes=(note,) if note else (),
        stored_names=names,
        _close=source.close,
    )


def _check_repeated(tensors: Iterable[Any], source: str) -> None:
    """Refuse tensors that share their data so often that a small file stands for a huge network.

    Raises:
        CheckpointError: they take far more bytes together than the archive holds for them.
    """
    views = [one for one in tensors if isinstance(one, ArchiveTensor)]
    members = (one.storage.member for one in views)
    sizes = {member.begin: member.size for member in members if member is not None}
    # Members of a hostile archive may lie upon each other, but not outside of the file.
    held = min(sum(sizes.values()), max((begin + sizes[begin] for begin in sizes), default=0))
    total = sum(prod(one.shape) * one.itemsize for one in views)
    if total > FREE + GROWTH * held:
        raise CheckpointError(
            f"{source}: its tensors repeat {held:,} bytes until they are {total:,}; "
            "save contiguous copies of them, if that is right"
        )


def _stored(tensor: Any, name: str) -> StoredTensor:
    if isinstance(tensor, ArchiveTensor | OddTensor):
        return tensor.stored(name)
    return from_torch(tensor, name)


def unpickle(source: ByteSource, allow_pickle: bool = False) -> object:
    """Give what an archive holds, whatever it is.

    Args:
        source: the archive, which stays open.
        allow_pickle: let torch load an archive that holds more than tensors and plain values.

    Returns:
        Plain values, ``ArchiveTensor`` for tensors, and ``Unread`` for what is read past; or
        what torch makes of it.

    Raises:
        CheckpointError: as :func:`read_pickled`.
    """
    try:
        return open_archive(source)
    except UnsafeName as found:
        if not allow_pickle:
            raise CheckpointError(
                f"{source.name} holds a pickled {found}, and opening it could run any code; "
                "save its state_dict instead, or, if you trust the file, "
                "pass `allow_pickle`"
            ) from None
    except ValueError as error:
        if not allow_pickle or str(error) == TAR:
            raise _unreadable(source, error) from None
    return _run(source)


def _run(source: ByteSource) -> object:
    """Let torch load an archive, which may run any code."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch

            return torch.load(source.file(), map_location="cpu", weights_only=False)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:
        # torch reports a damaged archive by almost any class, depending on the damaged byte.
        raise _unreadable(source, error) from None


def _unreadable(source: ByteSource, error: Exception) -> CheckpointError:
    try:
        reason = str(error).strip().splitlines()
    except RecursionError:  # an object of the archive that holds itself
        reason = []
    return CheckpointError(
        f"{source.name} is not a PyTorch archive that can be read: "
        f"{reason[0][:200] if reason else type(error).__name__}"
    )


def read_plain(source: ByteSource) -> Any:
    """Read an archive of plain values and tensors, all of it, into torch's tensors.

    Raises:
        CheckpointError: as :func:`read_pickled`.
    """
    try:
        return _to_torch(unpickle(source), source.name)
    except RecursionError:
        raise CheckpointError(f"{source.name} is nested too deeply") from None
    finally:
        source.close()


def _to_torch(content: Any, name: str) -> Any:
    done: dict[int, Any] = {}  # values that are there twice are read once

    def convert(value: Any) -> Any:
        if id(value) in done:
            return done[id(value)]
        made: Any = value
        if isinstance(value, ArchiveTensor | OddTensor):
            made = value.stored(name).torch()
        elif isinstance(value, dict):
            made = done[id(value)] = {}
            made.update((key, convert(one)) for key, one in value.items())
        elif isinstance(value, list):
            made = done[id(value)] = []
            made.extend(map(convert, value))
        elif isinstance(value, tuple):
            made = tuple(map(convert, value))
        done[id(value)] = made
        return made

    return convert(content)


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
    remarks: list[str] = []
    if key is not None:
        content = _entry(content, key, source)
        remarks.append(f"took the weights under {key!r}")
    while True:
        if _is_module(content):
            content = content.state_dict()  # type: ignore[attr-defined]
        if not isinstance(content, Mapping):
            what = "Tensor" if _is_tensor(content) else type(content).__name__
            raise CheckpointError(
                f"{source} holds a {what}, not a state dict; save model.state_dict()"
            )
        found = next((k for k in WRAPPERS if _holds_tensors(content.get(k))), None)
        if found is None:
            found = _only_entry(content, source)
        if found is None or len(remarks) > _MAX_DEPTH:
            break
        content = content[found]
        remarks.append(f"took the weights under {found!r}")
    state = {str(k): v for k, v in content.items() if _is_tensor(v) and isinstance(k, str | int)}
    if not state:
        raise CheckpointError(f"{source} holds no tensors; save model.state_dict()")
    check_count(len(state), source)
    _check_left_out(content, source)
    if len(state) < len(content):
        remarks.append(f"left out {len(content) - len(state)} entries that are no tensors")
    state, names = _without_wrappers(state, source, remarks)
    if any(not _is_text(name) for name in state):
        raise CheckpointError(f"{source} is corrupt: the name of a tensor is no text")
    return state, names, f"{source}: {', '.join(remarks)}" if remarks else ""


def _entry(content: object, key: str, source: str) -> object:
    """Give the entry that the user chose; raises CheckpointError where there is none."""
    left, seen = key, _Seen()
    while left:
        known = [str(k) for k in content if _holds_tensors(content[k], seen)] if isinstance(
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
    if any(
        _is_tensor(value) and not _is_told_beside(str(key), value) for key, value in content.items()
    ):
        return None
    seen = _Seen()
    found = [
        key
        for key, value in content.items()
        if not _TRAINING.search(str(key)) and _holds_tensors(value, seen)
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
    names = set()
    seen: tuple[set[int], set[int]] = (set(), set())
    for key, value in content.items():
        if _is_tensor(value):
            if not isinstance(key, str | int) or str(key) in names:
                raise CheckpointError(f"{source}: {key!r} is no name of its own for a tensor")
            names.add(str(key))
        elif not _TRAINING.search(str(key)) and _holds_weights(
            value, "." in str(key), seen["." in str(key)]
        ):
            raise CheckpointError(
                f"{source}: {str(key)!r} holds weights in a {type(value).__name__} (quantised?), "
                "which would be lost; save a state dict of plain tensors"
            )


def _holds_weights(value: object, of_module: bool, seen: set[int]) -> bool:
    """Tell whether something that is no tensor may hold weights.

    Args:
        value: what it is, with all that is in it.
        of_module: it has the name of a module's entry. Objects of unknown classes then count as
            weights, for quantised layers pack theirs into some.
        seen: containers that were looked into, which may hold themselves.
    """
    plain: tuple[type, ...] = (str, bytes, int, float, complex, type(None), Unread, Token,
             *_torch_types("dtype", "device"))  # fmt: skip
    weights: tuple[type, ...] = (np.ndarray, Storage, *_torch_types("nn.Module", "ScriptObject"))
    left = [value]
    while left:
        one = left.pop()
        if _is_tensor(one) or isinstance(one, weights):
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


class _Seen(dict[tuple[int, int], bool]):
    """Whether containers hold tensors, by their identity and the depth that was looked into."""


def _holds_tensors(value: object, seen: _Seen | None = None, depth: int = _MAX_DEPTH) -> bool:
    """Tell whether there are tensors in a value; one that is there often is looked into once."""
    if _is_module(value):
        return True
    if not isinstance(value, Mapping) or not depth:
        return False
    seen = _Seen() if seen is None else seen
    place = (id(value), depth)
    if place not in seen:
        seen[place] = False
        seen[place] = any(
            _is_tensor(v) or (not _TRAINING.search(str(k)) and _holds_tensors(v, seen, depth - 1))
            for k, v in value.items()
        )
    return seen[place]


def _is_tensor(value: object) -> bool:
    return isinstance(value, (ArchiveTensor, OddTensor, *_torch_types("Tensor")))


def _is_module(value: object) -> bool:
    return isinstance(value, _torch_types("nn.Module"))


def _torch_types(*names: str) -> tuple[type, ...]:
    """Give types of torch by their names; none before something else has imported it."""
    torch = sys.modules.get("torch")
    return tuple(attrgetter(name)(torch) for name in names) if torch else ()
