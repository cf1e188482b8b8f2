"""How large the tensors of a run are, for runs without data."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class TensorLimit(TorchDispatchMode):
    """Tells whether an operator made, or would have to go through, more elements than a limit.

    Attributes:
        exceeded: whether one did, among those that ran within this context. Attention counts with
            its product of queries and keys, whether or not this is stored.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self.exceeded = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        counts = [leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
        if "scaled_dot_product" in func.name():
            query, key = args[:2]
            counts.append(prod(query.shape[:-1]) * key.shape[-2])
        self.exceeded |= max(counts, default=0) > self._limit
        return made
