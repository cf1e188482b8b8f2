"""Put constants in the places of convolutions that read nothing, or that nothing reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.modules.constant import ConstantConvolution, is_exchangeable
from filtersurgeon.networks.structure.replay import exchange, find_module


def constant(model: nn.Module, *, modules: Sequence[str]) -> None:
    """Let convolutions give their bias at every position; their weights go.

    Args:
        model: the network, changed in place.
        modules: dotted names of two-dimensional convolutions, ordinary ones or ``Conv2dSame``.

    Raises:
        CheckpointError: there is no such module, or it is no such convolution.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(x, str) for x in modules):
        raise CheckpointError("the structure's constant modules are no list of names")
    for name in modules:
        found = find_module(model, name)
        if not isinstance(found, nn.Conv2d) or not is_exchangeable(found):
            raise CheckpointError(
                f"the structure makes {name!r} constant, but it is a {type(found).__name__}, "
                "no ordinary convolution"
            )
        exchange(model, found, ConstantConvolution.of(found))
