"""Training with convolution filters held still, as the papers do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filtersurgeon.errors import TrainingError
from filtersurgeon.networks.structure.plain_weights import keeps_weight, parted, weight_tensors

if TYPE_CHECKING:
    from torch import nn


def frozen_layers(model: nn.Module, freeze: str) -> list[str]:
    """Name the convolutions whose weights a freezing protocol holds still.

    Args:
        model: any network.
        freeze: ``spatial``: every convolution wider than one pixel (Gaudio et al., ExplainFix,
            section 3.1); ``depthwise``: those of them with one input channel per filter and more
            than one group (Babaiee et al., section 4); ``none``.

    Returns:
        Module names, in the order of the network.
    """
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    found = []
    for name, module in model.named_modules():
        if freeze == "none" or not isinstance(module, _ConvNd) or max(module.kernel_size) == 1:
            continue
        depthwise = module.groups > 1 and module.groups == module.in_channels
        if freeze == "spatial" or (depthwise and isinstance(module, nn.Conv2d)):
            found.append(name)
    return found


@contextmanager
def frozen(model: nn.Module, freeze: str) -> Iterator[list[str]]:
    """Hold filters still inside the block, and undo every change to the modules afterwards.

    With ``depthwise`` every kernel x is used as x + b with one trainable number b per kernel,
    zero at first, which is added into the weight at the end; x itself keeps its bits.

    Args:
        model: changed in place; its parameters keep their names and shapes after the block.
        freeze: ``none``, ``spatial`` or ``depthwise``.

    Yields:
        Names of the layers held still.

    Raises:
        TrainingError: there is nothing to hold still.
    """
    names = frozen_layers(model, freeze)
    if freeze != "none" and not names:
        raise TrainingError(f"freeze {freeze!r}: the network has no such convolution")
    _check_stay(model, names, freeze)
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name in names:
        own = dict(model.get_submodule(name).named_parameters())
        for tensor in weight_tensors(model.get_submodule(name)):
            if tensor in own:
                own[tensor].requires_grad_(False)
    if freeze == "depthwise":
        _add_biases(model, names)
    try:
        yield names
    finally:
        if freeze == "depthwise":
            _fold_biases(model, names)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(wanted[name])


def _check_stay(model: nn.Module, names: list[str], freeze: str) -> None:
    """Refuse weights in parts that do not stay, or do not take an additive bias."""
    for name in names:
        module = model.get_submodule(name)
        if "weight" in parted(module) and (freeze == "depthwise" or not keeps_weight(module)):
            raise TrainingError(
                f"layer {name}: its weight is stored in parts, which `freeze` {freeze} cannot hold "
                "still; make it an ordinary parameter first"
            )


def _add_biases(model: nn.Module, names: list[str]) -> None:
    """Replace each weight x by x + b."""
    import torch
    from torch import nn
    from torch.nn.utils.parametrize import register_parametrization

    class KernelBias(nn.Module):
        """Adds one number to every weight of a kernel; weights are (out, in, kh, kw)."""

        def __init__(self, weight: torch.Tensor) -> None:
            super().__init__()
            self.bias = nn.Parameter(weight.new_zeros(*weight.shape[:2], 1, 1))

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + self.bias

    for name in names:
        layer = model.get_submodule(name)
        register_parametrization(layer, "weight", KernelBias(layer.get_parameter("weight")))


def _fold_biases(model: nn.Module, names: list[str]) -> None:
    """Make x + b the plain weight again."""
    from torch.nn.utils.parametrize import remove_parametrizations

    for name in names:
        remove_parametrizations(model.get_submodule(name), "weight", leave_parametrized=True)
