"""A plan: which channels go, and which kernels are zeroed, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.graph.groups import Mask


@dataclass(frozen=True)
class Plan:
    """What is to be done to a network.

    Attributes:
        left: group -> whether it is left.
        zeroed: name of a layer -> (out, in/groups), which of its kernels are zeroed.
        rescued: layers that would have been emptied.
        shifts: tensors, in wide shapes, that take up constants of channels that go.
    """

    left: Mask
    zeroed: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    rescued: tuple[str, ...] = ()
    shifts: Mapping[str, Tensor] = field(default_factory=dict)
