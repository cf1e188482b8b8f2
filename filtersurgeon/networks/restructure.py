"""From the network of an architecture to the one that surgery made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.fitting import mismatch, name_mismatch
from filtersurgeon.networks.resizing import resize
from filtersurgeon.networks.signature import Shapes, adaptable_modules
from filtersurgeon.networks.structure import replay, stated_values

if TYPE_CHECKING:
    from torch import nn

HEAD_INPUTS = ("num_features", "head_hidden_size")
"""Names that timm's networks give to the number of channels before the classifier."""


def restructure(model: nn.Module, structure: Sequence[Mapping[str, Any]], shapes: Shapes) -> None:
    """Replay edits of the module tree, then give every tensor its shape, in place.

    Whether the layers go together is not tried; see :func:`filtersurgeon.networks.proof`.

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
    inputs = _head_inputs(model)
    resize(model, shapes, stated_values(structure))
    for name in HEAD_INPUTS:
        if inputs is not None and getattr(model, name, None) == inputs:
            setattr(model, name, _head_inputs(model))
    difference = mismatch(model, shapes)
    if difference:
        raise ArchitectureError(difference)


def _head_inputs(model: nn.Module) -> int | None:
    """Give the number of channels that a network's classifier takes, if it has one."""
    modules = dict(model.named_modules())
    for name in adaptable_modules(model)[0]:
        head = modules.get(name)
        found = getattr(head, "in_features", getattr(head, "in_channels", None))
        if isinstance(found, int):
            return found
    return None


def follow(own: Shapes, reference: Shapes, shapes: Shapes) -> Shapes:
    """Give shapes the classes and input channels in which one network differs from another.

    Args:
        own: shapes of a network as its architecture makes it.
        reference: shapes of the same architecture with other classes or input channels.
        shapes: shapes of the reference after surgery.

    Returns:
        The shapes after the same surgery on the network: the sizes in which it differs from the
        reference are its own, and tensors that it lacks (a classifier of no classes) are left out.
    """
    followed = {}
    for name, shape in shapes.items():
        if name in own and len(own[name]) == len(reference.get(name, ())) == len(shape):
            sizes = zip(own[name], reference[name], shape, strict=True)
            followed[name] = tuple(new if new != old else size for new, old, size in sizes)
        elif name in own or name not in reference:
            followed[name] = shape
    return followed
