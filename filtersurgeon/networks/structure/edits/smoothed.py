"""Smooth what strided pointwise convolutions read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.modules.predefined import SmoothedConvolution
from filtersurgeon.networks.structure.replay import exchange, find_modules


def smoothed(model: nn.Module, *, modules: Sequence[str]) -> None:
    """Let convolutions read a smoothed image; their weights stay as they are.

    Args:
        model: the network, changed in place.
        modules: dotted names of 1x1 convolutions with a stride.

    Raises:
        CheckpointError: there is no such module, or it does not leave out positions.
    """
    for name, found in find_modules(model, modules, "smoothed modules"):
        if not isinstance(found, nn.Conv2d) or not leaves_out(found):
            raise CheckpointError(
                f"the structure smooths {name!r}, which is no 1x1 convolution with a stride"
            )
        exchange(model, found, SmoothedConvolution.of(found))


def leaves_out(module: nn.Module) -> bool:
    """Tell whether a module is an ordinary convolution that looks at some positions only."""
    return (
        type(module) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.padding == (0, 0)
    )
