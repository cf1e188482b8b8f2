"""Functions that are followed as one operator each, and not run at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch

from filtersurgeon.graph.shapes import SHAPES

Follow = Callable[[Any, tuple[Any, ...], dict[str, Any], Sequence[Tensor]], None]
"""Takes an operator, its arguments and its results."""


class Whole(TorchFunctionMode):
    """Computes the shapes of some functions itself and hands them on as one operator.

    The scale of attention, for example, is a number that PyTorch works out from the length of a
    head; taken whole, its rule can see it.

    Args:
        follow: told of each.
    """

    def __init__(self, follow: Follow) -> None:
        super().__init__()
        self._follow = follow

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, whole or as it is."""
        kwargs = kwargs or {}
        shapes = SHAPES.get(func)
        made = None
        if shapes is not None:
            # A tensor without data is made in a fifth of the time if no mode hears of it.
            with no_dispatch():
                made = shapes(*args, **kwargs)
        if made is None:
            return func(*args, **kwargs)
        operator, args, results = made
        self._follow(operator, args, kwargs, results)
        return results[0] if len(results) == 1 else tuple(results)
