"""Replay the edits of a checkpoint, and what edits share; nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import CheckpointError, OptionError, near_misses
from filtersurgeon.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Give the module of a dotted name; the empty name is the network itself.

    Raises:
        CheckpointError: there is none; names the near misses.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        raise CheckpointError(
            f"the structure names the module {name!r}, which the network does not have"
            f"{near_misses(name, modules)}"
        )
    return modules[name]


def find_modules(model: nn.Module, names: object, what: str) -> Iterator[tuple[str, nn.Module]]:
    """Give the modules that an edit lists, each found once those before it are edited.

    Args:
        model: the network.
        names: what should be a list of dotted names.
        what: the list is of, for the error.

    Raises:
        CheckpointError: it is no list of names, or there is no such module.
    """
    if not isinstance(names, list | tuple) or not all(isinstance(x, str) for x in names):
        raise CheckpointError(f"the structure's {what} are no list of names")
    for name in names:
        yield name, find_module(model, name)


def exchange(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in every place of another one."""
    for parent in model.modules():
        for name, child in list(parent._modules.items()):
            if child is old:
                setattr(parent, name, new)


def resize_constants(module: nn.Module, old: int, new: int) -> None:
    """Repeat the constants of a module for another number of channels.

    Constants are buffers that are not stored, whose first axis are the channels, and which are the
    same for each of them.

    Raises:
        CheckpointError: they differ between channels, so that shapes do not tell which to keep.
    """
    for name in sorted(module._non_persistent_buffers_set):
        buffer = module._buffers[name]
        if buffer is None or not lies_along(buffer, old):
            continue
        if not repeats(buffer):
            raise CheckpointError(f"the constants {name!r} differ between channels")
        # A view: no memory is spent on a number of channels before the network is checked.
        module._buffers[name] = buffer[:1].expand(new, *buffer.shape[1:])


def lies_along(buffer: Tensor, channels: int) -> bool:
    """Tell whether the first axis of a constant is as long as there are channels."""
    return buffer.ndim > 1 and len(buffer) == channels


def repeats(buffer: Tensor) -> bool:
    """Tell whether a constant is the same for every index of its first axis."""
    return bool((buffer == buffer[:1]).all())


def settle_constants(model: nn.Module) -> None:
    """Give repeated constants memory of their own, as processes that share a network need it."""
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and not buffer.is_contiguous():
                module._buffers[name] = buffer.contiguous()


EDITS = Registry("filtersurgeon.networks.structure.edits", "edit of the structure")
KIND = "edit"


def replay(model: nn.Module, structure: Iterable[Mapping[str, Any]]) -> None:
    """Edit a network's module tree in place, edit after edit.

    Raises:
        CheckpointError: an edit of unknown kind, with unknown or missing fields, or one that
            this network does not take.
    """
    for edit in structure:
        kind = edit.get(KIND)
        if not isinstance(kind, str):
            raise CheckpointError(f"an edit of the structure does not name its kind: {dict(edit)}")
        fields = {name: value for name, value in edit.items() if name != KIND}
        try:
            bound = EDITS.bind(kind, fields)
            missing = [name for name in EDITS.options(kind) if name not in bound]
            if missing:
                raise OptionError(f"the edit {kind} of the structure lacks {missing[0]!r}")
            EDITS.function(kind)(model, **bound)
        except OptionError as error:
            raise CheckpointError(str(error)) from None


def stated_values(structure: Iterable[Mapping[str, Any]]) -> frozenset[tuple[str, str]]:
    """List the module and name of every value that a structure sets, and so does not leave open."""
    return frozenset(
        (edit["module"], name)
        for edit in structure
        if edit.get(KIND) == "set"
        for name in edit["values"]
    )
