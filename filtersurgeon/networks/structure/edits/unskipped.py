"""Take the skip connections out of residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.modules.predefined import Nothing
from filtersurgeon.networks.structure.replay import find_module


def unskipped(model: nn.Module, *, modules: Sequence[str]) -> None:
    """Let residual blocks add nothing to what they compute.

    Args:
        model: the network, changed in place.
        modules: dotted names of blocks whose skip connection is a module ``downsample``, or None
            for the identity, as in timm's and torchvision's ResNets.

    Raises:
        CheckpointError: there is no such module, or it has no ``downsample``.
    """
    if not isinstance(modules, list | tuple) or not all(isinstance(x, str) for x in modules):
        raise CheckpointError("the structure's blocks without skips are no list of names")
    for name in modules:
        block = find_module(model, name)
        if not skips(block):
            raise CheckpointError(
                f"the structure takes the skip out of {name!r}, a {type(block).__name__}, "
                "which has no downsample"
            )
        block.downsample = Nothing()


def skips(module: nn.Module) -> bool:
    """Tell whether a module is a residual block that says so by its ``downsample``."""
    own = {**vars(module), **module._modules}
    return "downsample" in own and isinstance(own["downsample"], nn.Module | None)
