"""Tensors of a network whose numbers are positions of channels, renumbered with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Ids


def renumber(tensor: Tensor, axis: Ids | None, alive: Mask) -> Tensor:
    """Give positions in an axis as they are once channels are removed from it.

    Args:
        tensor: the positions, of any shape; those of removed channels become arbitrary numbers.
        axis: the labels of the axis; None for a tensor that holds no positions, which stays.
        alive: label -> whether it is kept.
    """
    if axis is None:
        return tensor
    places = np.cumsum((axis < 0) | alive[axis]) - 1
    return torch.from_numpy(places[tensor.detach().cpu().numpy()]).to(tensor.dtype)


def take(tensor: Tensor, kept: Mapping[int, Ids]) -> Tensor:
    """Take the indices that are kept, by axis."""
    for axis, indices in kept.items():
        tensor = tensor.index_select(axis, torch.from_numpy(indices))
    return tensor
