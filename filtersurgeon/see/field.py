"""How large an image must be to show a unit whole: its receptive field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filtersurgeon.networks.devices import find_device, suited
from filtersurgeon.see.layers import output_of
from filtersurgeon.see.linearise import Linearised, check_linear, linearised

if TYPE_CHECKING:
    from torch import Tensor, nn


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
        return suited(blank, self.network.model).requires_grad_()


def find_canvas(
    model: nn.Module, layer: str, size: Sequence[int], upsample: str, device: str = "cpu"
) -> Canvas:
    """Find the image that shows a unit of a layer whole, and prove that the network is linear.

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
    padded = linearised(model, upsample, dtype=dtype).to(place)
    own = torch.zeros((1, *size), dtype=dtype, device=place)
    output = output_of(padded, layer, own)
    check_linear(padded, lambda x: output_of(padded, layer, x), own, layer)
    channels = output.shape[1]
    if all(length == 1 for length in output.shape[2:]):
        # A unit that sees the whole image, such as a class.
        return Canvas(padded, layer, channels, (size[0], size[1], size[2]), False, whole=True)
    bare = linearised(model, upsample, padded=False, dtype=dtype)
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
