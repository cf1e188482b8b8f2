"""The linear network that decoding transposes.

Activations become identities, biases are dropped, pooling becomes the adjoint of an upsampling,
and batch normalisation its scale. Every call of torch passes through one place, so networks that
call functions and networks made of layers are treated alike.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.see.linear_rules import HANDLERS, NONLINEAR, Settings
from filtersurgeon.see.unpool import check_upsampling

_TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-3}


class LinearMode(TorchFunctionMode):
    """Inside this context, what depends on the image is computed linearly.

    A tensor depends on the image if it requires a gradient.

    Args:
        settings: of the upsampling and the padding.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.suspects: dict[str, None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace a call by its linear part."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if not _depends(args, kwargs):
            return func(*args, **kwargs)
        handler = HANDLERS.get(name)
        if handler is not None:
            return handler(self.settings, func, args, kwargs)
        if name in NONLINEAR:
            self.suspects[name] = None
        return func(*args, **kwargs)


def _depends(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    found = (*args, *kwargs.values())
    return any(
        isinstance(x, Tensor) and x.requires_grad
        for item in found
        for x in (item if isinstance(item, list | tuple) else (item,))
    )


class Linearised(nn.Module):
    """A linear copy of a network.

    Args:
        model: any network; it is copied.
        upsample: ``nearest``, ``bilinear`` or ``bicubic``.
        padded: keep the zero padding of convolutions and pooling.
        dtype: to compute in.
    """

    def __init__(
        self,
        model: nn.Module,
        upsample: str = "nearest",
        *,
        padded: bool = True,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__()
        check_upsampling(upsample)
        self.model = deepcopy(model).to(dtype=dtype).eval().requires_grad_(False)
        self.upsample, self.padded = upsample, padded
        self.suspects: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Any:
        """Run the linear network on images ``(images, channels, height, width)``."""
        mode = LinearMode(Settings(self.upsample, self.padded, {}))
        try:
            with mode, torch.enable_grad():
                return self.model(x if x.requires_grad else x.detach().requires_grad_())
        finally:  # whoever is interested in an inner layer ends the pass there
            self.suspects = tuple(mode.suspects)


def linearised(
    model: nn.Module,
    upsample: str = "nearest",
    *,
    padded: bool = True,
    dtype: torch.dtype = torch.float64,
) -> Linearised:
    """Make a linear copy of a network, for decoding.

    Source: Rafegas and Vanrell, *Understanding learned CNN features through Filter Decoding with
    Substitution*, 2015, section 3; the recursion of that section is the transpose of this
    network. What the paper does not have is treated so: layer and group normalisation keep their
    subtraction of the mean and their scale; average pooling is pooled like max-pooling, divided by
    its stride; factors that depend on the image (squeeze-and-excitation, other gates) are 1, and
    attention is uniform.

    Args:
        model: any network.
        upsample: ``nearest``, ``bilinear`` or ``bicubic``.
        padded: keep the zero padding of convolutions and pooling.
        dtype: to compute in.

    Raises:
        OptionError: an unknown interpolation.
    """
    return Linearised(model, upsample, padded=padded, dtype=dtype)


def check_linear(network: Linearised, run: Any, x: Tensor, name: str) -> None:
    """Prove, on random images, that a linearised network is linear up to a constant.

    Args:
        network: tells what could not be linearised.
        run: from images to the tensor in question.
        x: ``(1, channels, height, width)``, for size, type and device.
        name: of the network, for the message.

    Raises:
        ArchitectureError: it is not; names the operators that are to blame.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn((2, *x.shape[1:]), generator=generator, dtype=x.dtype).to(x.device)
    both = torch.stack([torch.zeros_like(a), a, b, a - 2 * b])
    zero, first, second, mixed = run(both).detach()
    expected = first - 2 * second + 2 * zero
    size = (expected - zero).abs().max() + zero.abs().max()
    if not (mixed - expected).abs().max() <= _TOLERANCE[x.dtype] * size:
        suspects = ", ".join(network.suspects) or "an operator without a linear part"
        raise ArchitectureError(f"{name} cannot be decoded: nothing linear stands for {suspects}")
