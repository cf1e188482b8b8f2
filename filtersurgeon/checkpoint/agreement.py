"""How far the outputs of two networks are apart."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_IMAGES = 2


def output_difference(one: nn.Module, other: nn.Module, size: tuple[int, ...]) -> float:
    """Give ``||other - one|| / ||one||`` of the outputs for random images, in float64.

    Args:
        one: a network that gives one tensor; left as it is.
        other: the network to compare with it; left as it is.
        size: of an image, (channels, height, width).
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn((_IMAGES, *size), generator=generator, dtype=torch.float64)
    with torch.inference_mode():
        before, after = (deepcopy(model).double().eval()(images) for model in (one, other))
    tiny = torch.finfo(before.dtype).tiny
    return float((after - before).norm() / before.norm().clamp(min=tiny))
