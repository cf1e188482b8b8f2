"""Give a module ordinary parameters instead of parts that a norm, mask or parametrization joins."""

from __future__ import annotations

from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.structure.plain_weights import list_joined, make_plain
from filtersurgeon.networks.structure.replay import find_module


def plain_weight(model: nn.Module, *, module: str) -> None:
    """Exchange the parts of a module's parameters for the parameters themselves.

    Their values are taken from the checkpoint.

    Args:
        model: the network, changed in place.
        module: dotted name of a module with ``torch.nn.utils``' weight or spectral normalisation,
            pruning masks, or parametrizations.

    Raises:
        CheckpointError: there is no such module, or its parameters are ordinary ones.
    """
    found = find_module(model, module)
    if not list_joined(found):
        raise CheckpointError(
            f"the structure says that {module!r} stores a parameter in parts, but it does not"
        )
    make_plain(found)
