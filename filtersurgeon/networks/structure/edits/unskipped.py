"""Take the skip connections out of residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.modules.predefined import Nothing
from filtersurgeon.networks.structure.replay import find_modules


def unskipped(model: nn.Module, *, modules: Sequence[str]) -> None:
    """Let residual blocks add nothing to what they compute.

    Args:
        model: the network, changed in place.
        modules: dotted names of blocks whose skip connection is a module ``downsample``, or None
            for the identity, as in timm's and torchvision's ResNets.

    Raises:
        CheckpointError: there is no such module, or it has no ``downsample``.
    """
    for name, block in find_modules(model, modules, "blocks without skips"):
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
