"""Functions that are followed as one operator each, and not run at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from filtersurgeon.graph.shapes import SHAPES

Follow = Callable[[Any, tuple[Any, ...], dict[str, Any], Sequence[Tensor]], None]
"""Takes an operator, its arguments and its results."""


class Whole(TorchFunctionMode):
    """Computes the shapes of some functions itself and hands them on as one operator.

    The scale of attention, for example, is a number that PyTorch works out from the length of a
    head; taken whole, its rule can see it.

    Args:
        follow: told of each.
        aside: given True while shapes are computed, and False after.
    """

    def __init__(self, follow: Follow, aside: Callable[[bool], None]) -> None:
        super().__init__()
        self._follow = follow
        self._aside = aside

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, whole or as it is."""
        kwargs = kwargs or {}
        shapes = SHAPES.get(func)
        made = None
        if shapes is not None:
            self._aside(True)
            try:
                made = shapes(*args, **kwargs)
            finally:
                self._aside(False)
        if made is None:
            return func(*args, **kwargs)
        operator, args, results = made
        self._follow(operator, args, kwargs, results)
        return results[0] if len(results) == 1 else tuple(results)
