"""From the network of an architecture to the one that surgery made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.fitting import mismatch, name_mismatch
from filtersurgeon.checkpoint.resizing import resize
from filtersurgeon.checkpoint.signature import Shapes
from filtersurgeon.checkpoint.structure import replay, stated_values
from filtersurgeon.errors import ArchitectureError

if TYPE_CHECKING:
    from torch import nn


def restructure(model: nn.Module, structure: Sequence[Mapping[str, Any]], shapes: Shapes) -> None:
    """Replay edits of the module tree, then give every tensor its shape, in place.

    Whether the layers go together is not tried; see :func:`filtersurgeon.checkpoint.proof`.

    Args:
        model: the network as its architecture makes it, classes and input channels adapted.
        structure: a checkpoint's edits of the module tree.
        shapes: shapes of all its tensors, by name.

    Raises:
        CheckpointError: an edit that this network does not take.
        ArchitectureError: tensors of other names, or shapes that no number of channels gives.
    """
    replay(model, structure)
    difference = name_mismatch(model, shapes)
    if difference:
        raise ArchitectureError(difference)
    resize(model, shapes, stated_values(structure))
    difference = mismatch(model, shapes)
    if difference:
        raise ArchitectureError(difference)
