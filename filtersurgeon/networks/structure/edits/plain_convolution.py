"""Make an ordinary convolution of one that standardises its weight on every pass."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from filtersurgeon.checkpoint.vision import import_timm
from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.structure.replay import exchange, find_module

GEOMETRY = ("kernel_size", "stride", "padding", "dilation", "groups")


def plain_convolution(model: nn.Module, *, module: str) -> None:
    """Exchange a weight-standardised convolution for an ordinary one of the same geometry.

    The ordinary one's weight is taken from the checkpoint, which holds the standardised values.

    Args:
        model: the network, changed in place.
        module: dotted name of a ``StdConv2d``, ``ScaledStdConv2d`` or their ``Same`` variants.

    Raises:
        CheckpointError: there is no such module, or it does not standardise its weight.
    """
    found = find_module(model, module)
    if not is_standardised(found):
        raise CheckpointError(
            f"the structure calls {module!r} a weight-standardised convolution, "
            f"but it is a {type(found).__name__}"
        )
    exchange(model, found, fold_standardisation(found))


def is_standardised(module: nn.Module) -> bool:
    """Tell whether a module is one of timm's weight-standardised convolutions."""
    layers = import_timm().layers
    kinds = ("StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame")
    return type(module) in [getattr(layers, kind) for kind in kinds]


def fold_standardisation(module: nn.Module) -> nn.Module:
    """Give an ordinary convolution that computes what a weight-standardised one does.

    Each filter of n weights w becomes ``g (w - mean(w)) / sqrt(var(w) + eps)`` with the biased
    variance; g is 1, or the filter's gain times ``gamma / sqrt(n)`` for scaled standardisation.
    Source: Brock, De and Smith, *Characterizing Signal Propagation to Close the Performance Gap in
    Unnormalized ResNets*, 2021, equation 1.

    Args:
        module: a module for which :func:`is_standardised` holds; it is left as it is.

    Returns:
        A convolution, also of padding that depends on the input's size, whose ``weight`` holds the
        standardised values and whose ``bias`` is the module's own; there is no ``gain``.
    """
    assert isinstance(module, nn.Conv2d)
    with torch.device("meta"):
        plain = _class_of(module)(
            module.in_channels,
            module.out_channels,
            bias=module.bias is not None,
            **{name: getattr(module, name) for name in GEOMETRY},
        )
    plain.weight = nn.Parameter(_standardise(module), module.weight.requires_grad)
    plain.bias = module.bias
    return plain.train(module.training)


def _class_of(module: nn.Conv2d) -> type[nn.Conv2d]:
    same: type[nn.Conv2d] = import_timm().layers.Conv2dSame
    return same if getattr(module, "same_pad", False) else nn.Conv2d


def _standardise(module: nn.Conv2d) -> torch.Tensor:
    """Compute the weight in the same operation as the module does, so that every bit agrees."""
    gain = getattr(module, "gain", None)
    assert isinstance(module.eps, float)
    with torch.no_grad():
        return functional.batch_norm(
            module.weight.reshape(1, module.out_channels, -1),
            None,
            None,
            weight=None if gain is None else (gain * module.scale).view(-1),
            training=True,
            momentum=0.0,
            eps=module.eps,
        ).reshape_as(module.weight)
