"""What takes the place of a convolution whose output no longer depends on its input."""

from __future__ import annotations

from typing import TypeGuard

from torch import Tensor, nn

from filtersurgeon.networks.modules.predefined import Geometry

_TIMM_SAME = "timm.layers.conv2d_same"


class ConstantConvolution(nn.Module):
    """Give one value per channel at every position, in the output size of a convolution.

    Only the size of the input is looked at.

    Args:
        bias: the values, ``(channels,)``.
        geometry: of the convolution.
        same: whether it pads so that the output has ``ceil(input / stride)`` positions.
    """

    def __init__(self, bias: nn.Parameter, geometry: Geometry, *, same: bool) -> None:
        super().__init__()
        self.bias = bias
        self.geometry, self.same = geometry, same

    @classmethod
    def of(cls, module: nn.Conv2d) -> ConstantConvolution:
        """Give what takes a convolution's place, with its bias, or zeros.

        Args:
            module: one for which :func:`is_exchangeable` holds; it is left as it is.
        """
        zeros = nn.Parameter(module.weight.new_zeros(module.out_channels))
        bias = module.bias if isinstance(module.bias, nn.Parameter) else zeros
        same = type(module) is not nn.Conv2d or module.padding == "same"
        return cls(bias, Geometry.of(module), same=same).train(module.training)

    def forward(self, x: Tensor) -> Tensor:
        """Give the constant; ``(..., in, height, width)`` becomes ``(..., channels, h, w)``."""
        sides = [self._length(size, axis) for axis, size in enumerate(x.shape[-2:])]
        return x.new_zeros(*x.shape[:-3], 1, *sides) + self.bias[:, None, None]

    def _length(self, size: int, axis: int) -> int:
        kernel, stride, padding, dilation = (values[axis] for values in self.geometry)
        if self.same:
            return (size + stride - 1) // stride
        return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1

    def extra_repr(self) -> str:
        """Give what ``print`` shows of it."""
        return f"{len(self.bias)}, stride={self.geometry.stride}"


def is_exchangeable(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Tell whether a module is a convolution whose place a constant can take."""
    plain = type(module) is nn.Conv2d or type(module).__module__ == _TIMM_SAME
    return plain and getattr(module, "padding_mode", "") == "zeros"
