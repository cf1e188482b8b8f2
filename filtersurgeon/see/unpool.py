"""Pooling as the adjoint of an upsampling, so that its transpose is that upsampling."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from filtersurgeon.errors import OptionError, near_misses

UPSAMPLINGS = ("nearest", "bilinear", "bicubic")
Pair = tuple[int, int]


def check_upsampling(mode: str) -> None:
    """Refuse an unknown interpolation; raises OptionError with the near misses."""
    if mode not in UPSAMPLINGS:
        raise OptionError(f"upsample {mode!r} is unknown{near_misses(mode, UPSAMPLINGS)}")


def unpool(x: Tensor, mode: str, stride: Pair, offset: Pair, size: Pair) -> Tensor:
    """Upsample a map and lay it onto a canvas.

    Source: Rafegas and Vanrell, *Understanding learned CNN features through Filter Decoding with
    Substitution*, 2015, section 3 (``unpool``).

    Args:
        x: ``(images, channels, height, width)``.
        mode: ``nearest``, ``bilinear`` or ``bicubic``.
        stride: factors of the upsampling.
        offset: where the upsampled map begins on the canvas; may be negative.
        size: height and width of the canvas; what does not fit is cut off.
    """
    aligned = {} if mode == "nearest" else {"align_corners": False}
    factors = (float(stride[0]), float(stride[1]))
    large = functional.interpolate(x, scale_factor=factors, mode=mode, **aligned)
    pads = [
        amount
        for axis in (1, 0)
        for amount in (offset[axis], size[axis] - offset[axis] - large.shape[axis - 2])
    ]
    return functional.pad(large, pads)


class _AdjointOfUnpool(torch.autograd.Function):
    """The linear map whose transpose is :func:`unpool`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pooled: Pair, mode: str, stride: Pair, offset: Pair) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        ctx.rest = (mode, stride, offset, size)
        small = x.new_zeros(*x.shape[:2], *pooled, requires_grad=True)
        with torch.enable_grad():
            large = unpool(small, *ctx.rest)
        return torch.autograd.grad(large, small, x.detach())[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return unpool(gradients[0], *ctx.rest), None, None, None, None


def pool(x: Tensor, pooled: Pair, mode: str, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Pool linearly, by the adjoint of an upsampling.

    A pooled value becomes ``stride`` pixels in the middle of its window.

    Args:
        x: ``(images, channels, height, width)``.
        pooled: height and width of the result.
        mode: of the upsampling.
        kernel: height and width of a window.
        stride: of the windows.
        padding: around the map, before pooling.
    """
    pairs = zip(kernel, stride, padding, strict=True)
    offset = tuple((k - s + 1) // 2 - p for k, s, p in pairs)
    result: Tensor = _AdjointOfUnpool.apply(x, pooled, mode, stride, offset)
    return result
