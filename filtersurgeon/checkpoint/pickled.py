"""Reading ``.pt``, ``.pth`` and ``.bin`` archives, without running what they contain."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from typing import Any

from filtersurgeon.checkpoint.bytesource import ByteSource
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.torch_bridge import from_torch
from filtersurgeon.errors import CheckpointError

# Where training scripts keep the weights, the averaged ones first, as timm prefers them.
WRAPPERS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema", "state_dict",
            "model_state_dict", "model_state", "model")  # fmt: skip
PREFIXES = ("module.", "_orig_mod.")
_MAX_DEPTH = 4  # of wrappers in wrappers; a hostile one may hold itself


PREFIX_BYTES = 9
"""How many of its first bytes tell the format of a file."""


def looks_pickled(prefix: bytes) -> bool:
    """Tell from its first bytes whether a file is a PyTorch archive, old or new."""
    # The length of a safetensors header, 640 bytes for one, may begin as an archive does.
    if prefix[4:PREFIX_BYTES] == b"\0\0\0\0{":
        return False
    return prefix[:4] == b"PK\x03\x04" or (prefix[:1] == b"\x80" and prefix[1:2] in b"\2\3\4\5")


def read_pickled(source: ByteSource, allow_pickle: bool = False) -> Checkpoint:
    """Read a PyTorch archive and find the state dict in it.

    Args:
        source: the archive.
        allow_pickle: run the code that it may contain. Only for files from people you trust.

    Raises:
        CheckpointError: it holds code, is corrupt, or has no state dict.
    """
    content = _unpickle(source, allow_pickle)
    source.close()
    state, note = find_state_dict(content, source.name)
    tensors = {name: from_torch(tensor, name) for name, tensor in state.items()}
    return Checkpoint(tensors, source.name, notes=(note,) if note else ())


def _unpickle(source: ByteSource, allow_pickle: bool) -> object:
    import torch

    file = source.file()
    # Archives of torch >= 1.6 are mapped, so that tensors nobody asks for are never read.
    mapped = source.peek(4)[:2] == b"PK"
    place = f"/dev/fd/{file.fileno()}" if mapped else file
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(place, map_location="cpu", weights_only=not allow_pickle, mmap=mapped)
    except pickle.UnpicklingError as error:
        if allow_pickle:
            raise CheckpointError(f"{source.name} is corrupt: {error}") from None
        raise CheckpointError(
            f"{source.name} holds {_culprit(str(error))}, and opening it could run any code; "
            "save its state_dict instead, or, if you trust where it comes from, "
            "pass --allow-pickle"
        ) from None
    except Exception as error:
        # torch reports a damaged archive by almost any class, depending on the damaged byte.
        reason = str(error).strip().splitlines()
        raise CheckpointError(
            f"{source.name} is not a PyTorch archive that can be read: "
            f"{reason[0][:200] if reason else type(error).__name__}"
        ) from None


def _culprit(message: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", message) or re.search(r"type (\S+)", message)
    return f"a pickled {found.group(1)}" if found else "pickled code"


def find_state_dict(content: object, source: str) -> tuple[dict[str, Any], str]:
    """Unwrap what training scripts save around a state dict.

    Args:
        content: the unpickled object: a state dict, a dict that holds one under a usual name
            (an average of weights is preferred, as in timm), or a module.
        source: what messages call it.

    Returns:
        Name -> tensor, with the prefixes of wrappers (``module.``, ``_orig_mod.``) removed, and
        a remark on what was chosen or left out, or an empty string.

    Raises:
        CheckpointError: there are no tensors with names.
    """
    import torch

    remarks: list[str] = []
    while True:
        if isinstance(content, torch.nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            raise CheckpointError(
                f"{source} holds a {type(content).__name__}, not a state dict; "
                "save model.state_dict()"
            )
        key = next((k for k in WRAPPERS if _holds_tensors(content.get(k))), None)
        if key is None or len(remarks) == _MAX_DEPTH:
            break
        content = content[key]
        remarks.append(f"took the weights under {key!r}")
    state = {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)}
    if not state:
        raise CheckpointError(f"{source} holds no tensors; save model.state_dict()")
    if len(state) < len(content):
        remarks.append(f"left out {len(content) - len(state)} entries that are no tensors")
    for prefix in PREFIXES * 2:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state, f"{source}: {', '.join(remarks)}" if remarks else ""


def _holds_tensors(value: object, depth: int = _MAX_DEPTH) -> bool:
    import torch

    if isinstance(value, torch.nn.Module):
        return True
    if not isinstance(value, Mapping) or not depth:
        return False
    return any(
        isinstance(v, torch.Tensor) or (k in WRAPPERS and _holds_tensors(v, depth - 1))
        for k, v in value.items()
    )
