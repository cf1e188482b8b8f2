"""How far the outputs of two networks are apart."""

from __future__ import annotations

from copy import deepcopy
from math import inf, isnan
from typing import TYPE_CHECKING

from filtersurgeon.networks.outputs import as_numbers, paired

if TYPE_CHECKING:
    import torch
    from torch import nn

_IMAGES = 2


def output_difference(one: nn.Module, other: nn.Module, size: tuple[int, ...]) -> float:
    """Give ``||other - one|| / ||one||`` of the outputs for random images, in float64.

    Networks that convert to float32 on their way are compared in float32.

    Args:
        one: a network; left as it is.
        other: the network to compare with it; left as it is.
        size: of an image, (channels, height, width).

    Returns:
        The largest over the tensors that the networks return; infinite where a value is not finite.

    Raises:
        OutputError: their outputs cannot be compared.
    """
    import torch

    try:
        return _difference(one, other, size, torch.float64)
    except RuntimeError:
        return _difference(one, other, size, torch.float32)


def _difference(
    one: nn.Module, other: nn.Module, size: tuple[int, ...], dtype: torch.dtype
) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn((_IMAGES, *size), generator=generator, dtype=torch.float64).to(dtype)
    worst = 0.0
    with torch.inference_mode():
        before, after = (deepcopy(model).to(dtype).eval()(images) for model in (one, other))
        for pair in paired(before, after):
            first, second = as_numbers(pair.expected), as_numbers(pair.found)
            tiny = torch.finfo(first.dtype).tiny
            here = float((second - first).norm() / first.norm().clamp(min=tiny))
            worst = max(worst, inf if isnan(here) else here)
    return worst
