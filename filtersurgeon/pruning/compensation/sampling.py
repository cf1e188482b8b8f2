"""What layers read and make, as rows of matrices: a sample of positions."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from filtersurgeon.pruning.compensation.watch import Call


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
        Shapes (rows, in, taps), the taps of a kernel in the order of its weights, and (rows, out).
    """
    if call.geometry is None:
        inputs = call.inputs.reshape(-1, call.inputs.shape[-1], 1)
        return inputs, call.outputs.reshape(-1, call.outputs.shape[-1])
    stride, padding, dilation = call.geometry
    places = _positions(call.outputs, count, draw)
    image = functional.pad(call.inputs, [side for p in reversed(padding) for side in (p, p)])
    index: list[Any] = [slice(None), slice(None)]
    for axis, size in enumerate(kernel):
        taps = dilation[axis] * torch.arange(size, device=image.device)
        seen = places[axis][:, None] * stride[axis] + taps
        index.append(seen.reshape(-1, *(size if a == axis else 1 for a in range(len(kernel)))))
    found = image[tuple(index)]  # (n, in, positions, *kernel)
    rows = found.flatten(3).transpose(1, 2).flatten(0, 1)
    made = _at(call.outputs, places)
    return rows, made.transpose(1, 2).flatten(0, 1)


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
    seen = _at(call.inputs, _positions(call.inputs, count, draw))
    return seen.transpose(1, 2).flatten(0, 1)


def _at(image: Tensor, places: list[Tensor]) -> Tensor:
    """Give an image's values at some positions, ``(n, channels, positions)``."""
    index: tuple[Any, ...] = (slice(None), slice(None), *places)
    return image[index]


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
