"""The layers of a network with pre-defined filters."""

from __future__ import annotations

from math import exp
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SMOOTHING_SIGMA = 0.75


class Geometry(NamedTuple):
    """How kernels are moved over an image.

    Attributes:
        kernel: height and width of a kernel.
        stride: along both axes.
        padding: of zeros, on both sides of both axes.
        dilation: along both axes.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @classmethod
    def of(cls, module: nn.Conv2d) -> Geometry:
        """Give a convolution's; padding in words (``same``, ``valid``) is none here."""
        padding = (0, 0) if isinstance(module.padding, str) else module.padding
        return cls(*map(_pair, (module.kernel_size, module.stride, padding, module.dilation)))


class BankConvolution(nn.Module):
    """Convolve every channel with some filters of a bank, all in one grouped convolution.

    Result channel c is input channel ``floor(c / growth)`` convolved with the filter
    ``which[c]``, at first ``c mod k``.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, Eq. 7.1.

    Args:
        filters: ``(k, kh, kw)``; a parameter learns, any other tensor is a buffer. Several
            modules may share it.
        in_channels: number of input channels.
        growth: results per input channel.
        geometry: how the filters are moved.
    """

    def __init__(self, filters: Tensor, in_channels: int, growth: int, geometry: Geometry) -> None:
        super().__init__()
        if isinstance(filters, nn.Parameter):
            self.filters = filters
        else:
            self.register_buffer("filters", filters)
        self.register_buffer(
            "which", _assign_in_turn(in_channels * growth, len(filters), filters.device)
        )
        self.growth, self.geometry = growth, geometry

    filters: Tensor
    which: Tensor

    @property
    def in_channels(self) -> int:
        """Number of input channels, which the number of results tells."""
        return len(self.which) // self.growth

    @property
    def out_channels(self) -> int:
        """Number of results."""
        return len(self.which)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, in, h, w)`` to ``(n, in * growth, h', w')``."""
        _, stride, padding, dilation = self.geometry
        weight = self.filters[self.which].unsqueeze(1)
        return functional.conv2d(x, weight, None, stride, padding, dilation, self.in_channels)

    def extra_repr(self) -> str:
        """Show the sizes."""
        k, height, width = self.filters.shape
        return f"{self.in_channels}, {self.out_channels}, {k} filters of {height}x{width}"


class PredefinedFilterModule(nn.Module):
    """Filters of a bank, batch normalisation, a rectifier, a pointwise convolution.

    Without ``relu`` and ``norm`` it is an ordinary convolution whose kernels lie in the span of
    the bank. Only the pointwise weights and the normalisations learn, unless the filters are a
    parameter.
    Source: Linse, 2025, Eq. 1.5 (without the rectifier), 1.6 and 7.1.

    Args:
        bank: the filters, moved over the channels.
        out_channels: of the pointwise convolution.
        norm: normalise the results of the filters.
        relu: rectify them.
        bias: of the pointwise convolution.
        closing: normalise what leaves the module, for networks that do not do so themselves.
    """

    def __init__(
        self,
        bank: BankConvolution,
        out_channels: int,
        *,
        norm: bool = True,
        relu: bool = True,
        bias: bool = False,
        closing: bool = False,
    ) -> None:
        super().__init__()
        inner = bank.out_channels
        self.bank = bank
        self.norm = nn.BatchNorm2d(inner) if norm else nn.Identity()
        self.act = nn.ReLU(inplace=norm) if relu else nn.Identity()
        self.pointwise = nn.Conv2d(inner, out_channels, 1, bias=bias)
        self.closing = nn.BatchNorm2d(out_channels) if closing else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the pointwise weights as He et al., *Delving Deep into Rectifiers*, Eq. 10."""
        rectified = isinstance(self.act, nn.ReLU)
        nn.init.kaiming_normal_(
            self.pointwise.weight, nonlinearity="relu" if rectified else "linear"
        )
        if self.pointwise.bias is not None:
            nn.init.zeros_(self.pointwise.bias)

    @property
    def in_channels(self) -> int:
        """Number of input channels."""
        return self.bank.in_channels

    @property
    def out_channels(self) -> int:
        """Number of output channels."""
        return self.pointwise.out_channels

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of a filter."""
        return self.bank.geometry.kernel

    @property
    def stride(self) -> tuple[int, int]:
        """How far the filters move at a time."""
        return self.bank.geometry.stride

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, in, h, w)`` to ``(n, out, h', w')``."""
        made: Tensor = self.closing(self.pointwise(self.act(self.norm(self.bank(x)))))
        return made


class SmoothedConvolution(nn.Conv2d):
    """A strided pointwise convolution of a smoothed image, so that no line falls between samples.

    The image is convolved with a 3x3 Gaussian of sigma 0.75 and sum one, padded by zeros, and only
    where the stride leads.
    Source: Linse, 2025, section 6.6.
    """

    gaussian: Tensor

    @classmethod
    def of(cls, plain: nn.Conv2d) -> SmoothedConvolution:
        """Take over the weights of an ordinary convolution."""
        with torch.device("meta"):
            made = cls(
                plain.in_channels, plain.out_channels, 1,
                (plain.stride[0], plain.stride[1]),
                bias=plain.bias is not None,
            )  # fmt: skip
        made.weight, made.bias = plain.weight, plain.bias
        row = [exp(-(at**2) / (2 * SMOOTHING_SIGMA**2)) for at in (-1, 0, 1)]
        kernel = torch.tensor(row, device="cpu").outer(torch.tensor(row, device="cpu"))
        kernel = (kernel / kernel.sum())[None, None].to(plain.weight.dtype)
        device = "cpu" if plain.weight.is_meta else plain.weight.device
        made.register_buffer("gaussian", kernel.to(device), persistent=False)
        return made.train(plain.training)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(n, in, h, w)`` to ``(n, out, h', w')``."""
        channels = x.shape[1]
        kernel = self.gaussian.expand(channels, 1, 3, 3)
        smooth = functional.conv2d(x, kernel, None, self.stride, 1, 1, channels)
        return functional.conv2d(smooth, self.weight, self.bias)


class Nothing(nn.Module):
    """A zero in the place of a skip connection."""

    def forward(self, x: Tensor) -> Tensor:
        """Map anything to a single zero, which may be added to anything."""
        return x.new_zeros(())


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    first, second = values
    return first, second


def _assign_in_turn(count: int, filters: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) % filters
