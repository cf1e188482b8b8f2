"""A ranking method: a file of ``ranking/methods``, with its options and its random seed.

One registry serves all that scores: ``rank`` and ``prune --per-layer`` score filters, ChannelPrune
and ``explain`` score kernels. A method of weights takes rows, which are the filters of a layer or
its kernels. A method that runs the network scores every kernel, or every filter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.filters import FilterLayer, layer_seed
from filtersurgeon.registry import RANKING_METHODS, alternatives

Function = TypeVar("Function", bound=Callable[..., Any])

_REVEALING = "filtersurgeon_reveals"
_FILTERS_ONLY = "filtersurgeon_filters_only"
_TOGETHER = "filtersurgeon_together"


class Scores(NamedTuple):
    """What a ranking method says of one layer of N filters.

    Attributes:
        scores: ``(N,)``, higher = more important.
        tie_breakers: further ``(N,)`` arrays that decide in turn where scores are equal,
            higher = more important.
        statistics: numbers about the layer as a whole.
    """

    scores: np.ndarray
    tie_breakers: tuple[np.ndarray, ...] = ()
    statistics: Mapping[str, float] = {}

    def order(self) -> np.ndarray:
        """Give the indices of the filters ``(N,)``, most important first."""
        return descending(self.scores, *self.tie_breakers)


def descending(*keys: np.ndarray) -> np.ndarray:
    """Order by the first key, then the next; equal items keep their places."""
    return np.lexsort([-np.asarray(key, np.float64) for key in reversed(keys)])


def reveals(method: Function) -> Function:
    """Mark a ranking method whose scores are finite only where every weight is.

    Its weights are not checked separately, which takes as long as the scores.
    """
    setattr(method, _REVEALING, True)
    return method


def filters_only(method: Function) -> Function:
    """Mark a ranking method that does not score kernels.

    Such a method compares the filters of one layer with each other, so its scores of different
    layers do not compare, and a layer has too many kernels to compare all pairs.
    """
    setattr(method, _FILTERS_ONLY, True)
    return method


def together(function: Callable[..., list[Scores]]) -> Callable[[Function], Function]:
    """Mark a ranking method that scores many layers at once on a GPU.

    Args:
        function: takes the rows of every layer, the device and the seed of every layer, and the
            options of the method; gives the scores of every layer.
    """

    def mark(method: Function) -> Function:
        setattr(method, _TOGETHER, function)
        return method

    return mark


def takes_images(name: str) -> bool:
    """Tell whether a ranking method runs the network on images; False if there is none."""
    return name in RANKING_METHODS.names() and "data" in RANKING_METHODS.inputs(name)


def methods_of_weights() -> list[str]:
    """Name the ranking methods that take no images."""
    return [name for name in RANKING_METHODS.names() if not takes_images(name)]


def kernel_methods() -> list[str]:
    """Name the ranking methods that score kernels."""
    return [name for name in RANKING_METHODS.names() if _scores_kernels(name)]


def check_kernel_method(name: str) -> None:
    """Refuse a ranking method that does not score kernels.

    Raises:
        OptionError: it scores filters only, or there is none of that name.
    """
    if not _scores_kernels(name):
        raise OptionError(
            f"{name} ranks filters, not kernels; add `per_layer` to prune by it, or "
            f"score kernels with {alternatives(kernel_methods())}"
        )


def _scores_kernels(name: str) -> bool:
    return not getattr(RANKING_METHODS.function(name), _FILTERS_ONLY, False)


class Method:
    """A ranking method, its options checked.

    Args:
        name: a file of ``ranking/methods``.
        options: the method's own.
        seed: random seed; layers get different ones.

    Attributes:
        name: as given.
        options: those that were given, converted to the types that the method declares.
        takes_images: whether it runs the network on images.

    Raises:
        OptionError: an unknown method or option.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        self._function = RANKING_METHODS.function(name)
        self.name = name
        self.options = RANKING_METHODS.bind(name, options or {}, reserved=("seed",))
        self.takes_images = takes_images(name)
        self._seeded = "seed" in RANKING_METHODS.options(name)
        self._seed = seed

    @property
    def reveals(self) -> bool:
        """Whether weights that are not finite show in its scores."""
        return getattr(self._function, _REVEALING, False)

    @property
    def used(self) -> dict[str, Any]:
        """The options that were given, and the seed where it matters and is not 0."""
        return {**self.options, **({"seed": self._seed} if self._seeded and self._seed else {})}

    def check_images(self, data: object) -> None:
        """Refuse images that are missing or have no use; raises OptionError."""
        if self.takes_images and data is None:
            raise OptionError(f"{self.name} needs labelled images: pass them with `data`")
        if data is not None and not self.takes_images:
            raise OptionError(f"{self.name} uses no images; leave `data` out")

    def score(self, rows: np.ndarray, layer: str) -> Scores:
        """Score the filters or the kernels of a layer by their weights.

        Args:
            rows: ``(N, l)``, one per row.
            layer: the layer's name.

        Raises:
            LayerError: they cannot be scored; names the layer.
        """
        drawn = {"seed": layer_seed(layer, self._seed)} if self._seeded else {}
        try:
            found = self._function(rows, **self.options, **drawn)
        except LayerError as error:
            raise LayerError(f"layer {layer}: {error}") from None
        return found if isinstance(found, Scores) else Scores(found)

    def uses_gpu(self) -> bool:
        """Whether it scores many layers at once on a GPU."""
        return hasattr(self._function, _TOGETHER)

    def score_together(self, rows: Mapping[str, np.ndarray], device: str) -> dict[str, Scores]:
        """Score the filters of many layers by their weights, on a GPU.

        Args:
            rows: by the layer's name, ``(N, l)``, one filter per row.
            device: torch's name of the GPU.

        Raises:
            LayerError: one cannot be scored.
        """
        seeds = [layer_seed(name, self._seed) for name in rows]
        found = getattr(self._function, _TOGETHER)(
            list(rows.values()), device, seeds, **self.options
        )
        return dict(zip(rows, found, strict=True))

    def run(
        self,
        checkpoint: Checkpoint,
        layers: Sequence[FilterLayer],
        data: Any,
        progress: Progress | None,
        file: str | Path | None = None,
    ) -> Any:
        """Run the network and score its layers.

        Args:
            checkpoint: the network.
            layers: which to score.
            data: labelled images and where to run.
            progress: told images done and images in all.
            file: where sums over images are kept, for the methods that take one.

        Returns:
            A :class:`~filtersurgeon.ranking.kernel_scores.KernelScores`, or by layer name
            ``(N,)`` for its filters or ``(N, n)`` for its kernels.

        Raises:
            OptionError: a file for a method that keeps no sums.
        """
        if file is not None and "file" not in RANKING_METHODS.inputs(self.name):
            raise OptionError(f"{self.name} cannot resume from a file; leave `scores` out")
        resumed = {} if file is None else {"file": file}
        seeded = {"seed": self._seed} if self._seeded else {}
        return self._function(
            checkpoint, layers, data, progress, **resumed, **self.options, **seeded
        )
