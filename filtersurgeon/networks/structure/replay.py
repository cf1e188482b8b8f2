"""Make again the edits that a checkpoint describes; nothing in them is trusted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import CheckpointError, OptionError
from filtersurgeon.registry import Registry

if TYPE_CHECKING:
    from torch import nn

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
