"""A rectifier whose backward pass may differ from its forward pass."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function_unary

from filtersurgeon.networks.modules.rectifiers.kinds import Shape


class _TwoSlopes(torch.autograd.Function):
    """Rectify with one slope, and pass gradients with another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shape = shape
        return _forward(x, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), shape = ctx.saved_tensors, ctx.shape
        slopes = torch.ones_like(x).masked_fill_(x < 0, shape.backward_slope)
        if shape.cap < inf:
            slopes.masked_fill_(x > shape.cap, 0)
        # A new tensor: whoever else holds the incoming gradient must not see it change.
        return gradients[0] * slopes, None


def _forward(x: Tensor, shape: Shape) -> Tensor:
    leaked = functional.leaky_relu(x, shape.forward_slope) if shape.forward_slope else x.relu()
    return leaked.clamp(max=shape.cap) if shape.cap < inf else leaked


def rectify(x: Tensor, shape: Shape) -> Tensor:
    """Rectify any tensor.

    Source of ProxyGrad, where the slopes differ: Linse, *Towards Understanding CNNs Through
    Visualization and Systematic Simplification*, 2025, section 5.2 and Table 5.2. The proxy of a
    capped rectifier is a capped Leaky ReLU, so nothing flows above the cap.

    Args:
        x: any shape.
        shape: slopes below zero, and the cap.
    """
    if has_torch_function_unary(x):  # whoever watches rectifiers sees this one whole
        return handle_torch_function(rectify, (x,), x, shape)
    if shape.forward_slope == shape.backward_slope:
        return _forward(x, shape)
    result: Tensor = _TwoSlopes.apply(x, shape)
    return result


_RELU = Shape()


class Rectifier(nn.Module):
    """A rectifier as a layer; it has no parameters, so a state dict does not change."""

    def __init__(self, shape: Shape = _RELU) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Rectify any tensor."""
        return rectify(x, self.shape)

    def extra_repr(self) -> str:
        """Show the slopes and the cap."""
        return ", ".join(f"{name}={value:g}" for name, value in self.shape._asdict().items())


class ProxyGradReLU(Rectifier):
    """A ReLU whose gradients leak.

    Args:
        slope: what gradients are multiplied with where the input is negative, 0 to 1.
    """

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__(Shape(0.0, slope))
