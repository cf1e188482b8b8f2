"""Batch normalisations that run as part of the convolutions before them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.graph.follow import normalisations
from filtersurgeon.graph.graph import run_trace

if TYPE_CHECKING:
    import torch
    from torch import nn


def fuse_norms(model: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Move every batch normalisation that directly follows a convolution into it, in place.

    With its running statistics a normalisation is a factor and a shift of each channel, which the
    convolution's weights and bias take up. What cannot be traced is left as it is.

    Args:
        model: in evaluation mode; nothing of it may be trained afterwards.
        image: a batch of one on the meta device, to trace the network with.

    Returns:
        Name of the convolution -> factor of each of its filters (n,).
    """
    try:
        norms = normalisations(model, run_trace(model, image), alone=True)
    except FilterSurgeonError:
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    factors = {}
    for convolution, norm in norms.items():
        if _fits(model.get_submodule(convolution), norm):
            factors[convolution] = _fuse(model.get_submodule(convolution), norm)
            owner, _, name = names[id(norm)].rpartition(".")
            setattr(model.get_submodule(owner), name, _behind(norm))
    return factors


def _fits(convolution: Any, norm: Any) -> bool:
    from timm.layers import BatchNormAct2d
    from torch import nn

    # Other kinds of convolution work on their weights before they use them.
    return (
        type(convolution) is nn.Conv2d
        and type(norm) in (nn.BatchNorm2d, BatchNormAct2d)
        and norm.running_var is not None
    )


def _behind(norm: Any) -> nn.Module:
    """Give what timm's normalisation does besides: drop blocks and an activation."""
    from torch import nn

    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


def _fuse(convolution: Any, norm: Any) -> torch.Tensor:
    import torch
    from torch import nn

    with torch.no_grad():
        factor: torch.Tensor = (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean * factor
        if norm.affine:
            factor, shift = factor * norm.weight, shift * norm.weight + norm.bias
        if convolution.bias is not None:
            shift = shift + factor * convolution.bias
        convolution.weight.mul_(factor[:, None, None, None])
        convolution.bias = nn.Parameter(shift, requires_grad=False)
    return factor
