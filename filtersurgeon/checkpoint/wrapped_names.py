"""Names of tensors that wrappers changed: their bare form, and the way back.

Wrappers for compiling, sharding and checkpointing put a module of their own around others, anywhere
in a network, whose name then stands in the names of tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from filtersurgeon.errors import CheckpointError

WORDS = ("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module")
"""Names of the modules that ``torch.compile``, FSDP and activation checkpointing put in between."""

PREFIXES = ("module.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What wrappers for several devices and for compiling put before all names."""

_WRAPPED = re.compile(rf"(?:^|(?<=\.))(?:{'|'.join(WORDS)})\.")
_FLAT = re.compile(r"(.*\.)?_?flat_param(_\d+)?")


def bare_names(names: Iterable[str], source: str) -> dict[str, str]:
    """Remove the words of wrappers from names.

    Args:
        names: of tensors.
        source: what messages call the checkpoint.

    Returns:
        Name -> bare name, for every name.

    Raises:
        CheckpointError: two tensors would have one name, or FSDP has joined parameters to one.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name in names:
        if _FLAT.fullmatch(name):
            raise CheckpointError(
                f"{source}: {name!r} holds parameters that FSDP has joined; "
                "save a full state dict (FULL_STATE_DICT)"
            )
        bare = _WRAPPED.sub("", name)
        if bare in seen:
            raise CheckpointError(
                f"{source}: the tensor {bare!r} exists twice, with and without the prefix of a "
                "wrapper; save one network's state_dict"
            )
        seen.add(bare)
        found[name] = bare
    return found


def unwrapped_names(names: Iterable[str], source: str) -> dict[str, str]:
    """Remove the words of wrappers, and prefixes that all names of a PyTorch archive have.

    Args, returns and raises as :func:`bare_names`.
    """
    found = {name: name for name in names}
    for prefix in PREFIXES * 2:
        if all(bare.startswith(prefix) for bare in found.values()):
            found = {name: bare.removeprefix(prefix) for name, bare in found.items()}
    bare = bare_names(found.values(), source)
    return {name: bare[short] for name, short in found.items()}


def restored_names(names: Iterable[str], stored: Mapping[str, str]) -> dict[str, str]:
    """Give tensors the names that they had in the file.

    A tensor that was not there, because its module was changed, gets the name that its module had.

    Args:
        names: of the tensors.
        stored: name -> name in the file, where they differ.

    Returns:
        Name -> name to write, for every name.

    Raises:
        CheckpointError: two tensors would have one name.
    """
    modules: dict[str, str] = {}
    for own, old in stored.items():
        here, there = own.split("."), old.split(".")
        while here and there and here[-1] == there[-1]:
            here, there = here[:-1], there[:-1]
            modules.setdefault(".".join(here), ".".join(there))
    found = {name: stored.get(name) or _in_module(name, modules) for name in names}
    if len(set(found.values())) < len(found):
        raise CheckpointError(
            "two tensors would have one name with the removed prefix; leave out `keep_names`"
        )
    return found


def _in_module(name: str, modules: Mapping[str, str]) -> str:
    module, last = name, ""
    while module:
        module, _, part = module.rpartition(".")
        last = f"{part}.{last}" if last else part
        if module in modules:
            return f"{modules[module]}.{last}" if modules[module] else last
    return name
