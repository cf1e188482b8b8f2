"""The linear network that decoding transposes.

Activations become identities, biases are dropped, pooling becomes the adjoint of an upsampling,
and batch normalisation its scale. Every call of torch passes through one place, so networks that
call functions and networks made of layers are treated alike.

A unit's receptive field, found in it, tells how large an image must be to show the unit whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.devices import find_device, move_like
from filtersurgeon.see.layers import output_of
from filtersurgeon.see.linear_rules import HANDLERS, NONLINEAR, Settings, check_upsampling

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
        finally:  # the pass may be ended at an inner layer
            self.suspects = tuple(mode.suspects)


def linearise(
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
    """Check, on random images, that a linearised network is linear up to a constant.

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
    if not ((mixed - expected).abs().max() <= _TOLERANCE[x.dtype] * size).tolist():
        suspects = ", ".join(network.suspects) or "an operator without a linear part"
        raise ArchitectureError(f"{name} cannot be decoded: nothing linear stands for {suspects}")


@dataclass(frozen=True)
class Canvas:
    """A linear network and the image that one unit of a layer sees.

    Attributes:
        network: the linear network.
        layer: whose units are of interest.
        channels: how many units the layer has.
        size: (channels, height, width) of the image.
        exact: the layer's output for such an image has one position, and nothing is padded.
        whole: the layer has one position, which looks at the network's own image as a whole.
        stride: pixels between neighbouring units of the layer, where ``exact``.
    """

    network: Linearised
    layer: str
    channels: int
    size: tuple[int, int, int]
    exact: bool
    whole: bool = False
    stride: tuple[int, int] = (1, 1)

    def blank(self, count: int) -> Tensor:
        """Give black images that ask for gradients."""
        import torch

        blank = torch.zeros((count, *self.size))
        return move_like(blank, self.network.model).requires_grad_()


def find_canvas(
    model: nn.Module, layer: str, size: Sequence[int], upsample: str, device: str = "cpu"
) -> Canvas:
    """Find the image that shows a unit of a layer whole, and check that the network is linear.

    A network without skip connections below the layer is run without padding, on the smallest
    image that gives the layer one position: its gradient is the recursion of the paper, borders
    included. Others, and layers that look at the whole image, are run on the network's own image.

    Args:
        model: the network.
        layer: a module's name.
        size: (channels, height, width) of the network's own image.
        upsample: of the pooling's adjoint.
        device: where to compute.

    Raises:
        LayerError: the layer is not run.
        ArchitectureError: an operator has no linear part.
    """
    import torch

    place = find_device(device)
    dtype = torch.float32 if place.type == "mps" else torch.float64
    padded = linearise(model, upsample, dtype=dtype).to(place)
    own = torch.zeros((1, *size), dtype=dtype, device=place)
    output = output_of(padded, layer, own)
    check_linear(padded, lambda x: output_of(padded, layer, x), own, layer)
    channels = output.shape[1]
    if all(length == 1 for length in output.shape[2:]):
        # A unit that sees the whole image, such as a class.
        return Canvas(padded, layer, channels, (size[0], size[1], size[2]), False, whole=True)
    bare = linearise(model, upsample, padded=False, dtype=dtype)
    # Only sizes are of interest, and the meta device computes nothing else.
    found = _smallest(deepcopy(bare).to("meta"), layer, own.to("meta"))
    if output.ndim != 4 or found is None:
        return Canvas(padded, layer, channels, (size[0], size[1], size[2]), False)
    (height, down), (width, across) = found
    window = (size[0], height, width)
    return Canvas(bare.to(place), layer, channels, window, True, stride=(down, across))


def _smallest(
    network: Linearised, layer: str, own: Tensor
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Find the smallest height and width that give one position, and the strides; or None."""

    def lengths(height: int, width: int) -> tuple[int, int] | None:
        try:
            output = output_of(network, layer, own.new_zeros((1, own.shape[1], height, width)))
        except RuntimeError:  # an image too small for a kernel, or branches that do not meet
            return None
        return output.shape[2], output.shape[3]

    rows, columns = own.shape[-2:]
    if not _agree(network, layer, own):
        return None
    down = _search(lambda n: (lengths(n, 2 * columns) or (0, 0))[0], 2 * rows)
    across = _search(lambda n: (lengths(2 * rows, n) or (0, 0))[1], 2 * columns)
    return (down, across) if down and across else None


def _agree(network: Linearised, layer: str, own: Tensor) -> bool:
    """Tell whether the unpadded network still runs, on large images of two sizes.

    Branches of different reach meet by accident where one has a single position, never here.
    """
    for extra in (0, 1):
        shape = (1, own.shape[1], 2 * own.shape[-2] + extra, 2 * own.shape[-1] + extra)
        try:
            output_of(network, layer, own.new_zeros(shape))
        except RuntimeError:
            return False
    return True


def _search(length: Callable[[int], int], largest: int) -> tuple[int, int] | None:
    """Find the smallest image side that gives one position, and the distance to the next one."""
    low, high = 0, largest
    if length(high) < 2:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if length(middle) < 1 else (low, middle)
    if length(high) != 1:
        return None
    step = next((n for n in range(1, largest - high + 1) if length(high + n) > 1), 0)
    return (high, step) if step else None
