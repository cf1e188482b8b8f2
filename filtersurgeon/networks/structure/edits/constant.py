"""Put constants in the places of convolutions that read nothing, or that nothing reads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.modules.constant import ConstantConvolution, is_exchangeable
from filtersurgeon.networks.structure.replay import exchange, find_modules


def constant(model: nn.Module, *, modules: Sequence[str]) -> None:
    """Let convolutions give their bias at every position; their weights go.

    Args:
        model: the network, changed in place.
        modules: dotted names of two-dimensional convolutions, ordinary ones or ``Conv2dSame``.

    Raises:
        CheckpointError: there is no such module, or it is no such convolution.
    """
    for name, found in find_modules(model, modules, "constant modules"):
        if not is_exchangeable(found):
            raise CheckpointError(
                f"the structure makes {name!r} constant, but it is a {type(found).__name__}, "
                "no ordinary convolution"
            )
        exchange(model, found, ConstantConvolution.of(found))
