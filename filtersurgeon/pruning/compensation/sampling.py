"""What layers read and make, as rows of matrices: a sample of positions."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from filtersurgeon.pruning.compensation.watch import Call

_DENSE = 4
"""How many numbers of the whole image may be copied for each that is taken."""


def patches(
    call: Call, kernel: tuple[int, ...], count: int, draw: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give what filters see, and what they make of it.

    Args:
        call: of a convolution, or of a linear layer.
        kernel: shape of its kernels; empty for a linear layer.
        count: positions per image at most; those of a linear layer are all taken.
        draw: chooses them, the same for all images of the batch.

    Returns:
        Shapes (rows, taps, in), the taps of a kernel in the order of its weights, and (rows, out).
    """
    if call.geometry is None:
        inputs = call.inputs.reshape(-1, 1, call.inputs.shape[-1])
        return inputs, call.outputs.reshape(-1, call.outputs.shape[-1])
    stride, padding, dilation = call.geometry
    places = _positions(call.outputs, count, draw)
    image = call.inputs
    if any(padding):  # a pad of nothing copies, too
        image = functional.pad(image, [side for p in reversed(padding) for side in (p, p)])
    seen = torch.zeros(1, 1, dtype=torch.long, device=image.device)
    for axis, size in enumerate(kernel):
        taps = dilation[axis] * torch.arange(size, device=image.device)
        along = places[axis][:, None] * stride[axis] + taps
        seen = (seen[:, :, None] * image.shape[2 + axis] + along[:, None]).flatten(1)
    return _take(image, seen), _at(call.outputs, places)


def channels(call: Call, columns: NDArray[np.int64], count: int, draw: torch.Generator) -> Tensor:
    """Give the values of a layer's input channels.

    Args:
        call: of the layer.
        columns: (taps, channels), which inputs are a channel's: one for a convolution, and behind
            a flattening one per position.
        count: positions per image at most, of a convolution.
        draw: chooses them.

    Returns:
        Shape (rows, channels).
    """
    if call.geometry is None:
        rows = call.inputs.reshape(-1, call.inputs.shape[-1])
        return rows[:, torch.from_numpy(columns).to(rows.device)].flatten(0, 1)
    return _at(call.inputs, _positions(call.inputs, count, draw))


def _take(image: Tensor, seen: Tensor) -> Tensor:
    """Give what filters see of images.

    Args:
        image: ``(n, in, *space)``.
        seen: ``(positions, taps)``, places in the flattened space.

    Returns:
        Shape (n * positions, taps, in).
    """
    n, channels = image.shape[:2]
    found = _index(image.flatten(2), seen.flatten())
    return found.reshape(n * len(seen), seen.shape[1], channels)


def _at(image: Tensor, places: list[Tensor]) -> Tensor:
    """Give an image's values at some positions, ``(n * positions, channels)``."""
    index = torch.zeros_like(places[0])
    for place, size in zip(places, image.shape[2:], strict=True):
        index = index * size + place
    return _index(image.flatten(2), index).flatten(0, 1)


def _index(flat: Tensor, index: Tensor) -> Tensor:
    """Take positions of ``(n, channels, positions)``; gives ``(n, taken, channels)``."""
    last = flat.transpose(1, 2)
    if not last.is_contiguous() and len(index) * _DENSE < flat.shape[2]:
        return flat.index_select(2, index).transpose(1, 2).contiguous()
    # Copying whole vectors of channels is several times faster than numbers one by one.
    return last.contiguous().index_select(1, index)


def _positions(image: Tensor, count: int, draw: torch.Generator) -> list[Tensor]:
    """Draw positions of an image; gives a vector of indices per axis of space."""
    space = image.shape[2:]
    total = prod(space)
    flat = torch.randperm(total, generator=draw)[:count] if count < total else torch.arange(total)
    found = []
    for size in reversed(space):
        found.append((flat % size).to(image.device))
        flat = flat // size
    return found[::-1]
