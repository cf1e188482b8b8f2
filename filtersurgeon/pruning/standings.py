"""How the filters of every layer stand among each other, by any ranking method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import check_finite, layer_seed
from filtersurgeon.graph.subject import Subject
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.per_layer import Standing, standing
from filtersurgeon.ranking.annotation import read_annotation
from filtersurgeon.ranking.energy import is_revealing
from filtersurgeon.ranking.ranking import Scores
from filtersurgeon.registry import RANKING_METHODS

Progress = Callable[[int, int], None]


def rank_layers(
    subject: Subject,
    layers: Sequence[WeightLayer],
    method: str,
    options: Mapping[str, Any],
    seed: int,
    progress: Progress | None = None,
) -> Standing:
    """Rank the filters of layers by a method that looks at weights alone.

    Args:
        subject: the network.
        layers: which of its layers.
        method: a ranking method's name.
        options: its own.
        seed: for the methods that draw.
        progress: told how many layers of how many are done.

    Raises:
        OptionError: an unknown method or option.
        LayerError: a layer that cannot be ranked (named).
    """
    function = RANKING_METHODS.function(method)
    bound = RANKING_METHODS.bind(method, options, reserved=("seed",))
    seeded = "seed" in RANKING_METHODS.options(method)
    found = {}
    for done, layer in enumerate(layers, 1):
        own = {"seed": layer_seed(layer.name, seed)} if seeded else {}
        rows = filters(subject, layer)
        scores = _scores(
            rows, layer.name, partial(function, **bound, **own), is_revealing(function)
        )
        found[layer.name] = standing(scores.order())
        if progress:
            progress(done, len(layers))
    return found


def filters(subject: Subject, layer: WeightLayer) -> NDArray[np.float32]:
    """Give the flattened filters of a layer as rows, ``(out, weights of one)``."""
    weight = layer.filters_first(subject.network.get_parameter(layer.tensor).detach().float())
    rows: NDArray[np.float32] = weight.flatten(1).numpy()
    return rows


@dataclass(frozen=True)
class Annotated:
    """The ranking in a checkpoint's metadata.

    Attributes:
        standings: of the layers that were ranked.
        patterns: by which they were chosen; none for all spatial ones.
    """

    standings: Standing
    patterns: tuple[str, ...]


def annotated(checkpoint: Checkpoint) -> Annotated | None:
    """Take the ranking that an earlier command left in a checkpoint's metadata."""
    found = read_annotation(checkpoint)
    if found is None:
        return None
    standings = {name: standing(order) for name, order in found.orders.items()}
    return Annotated(standings, found.patterns)


def _scores(
    rows: NDArray[np.float32],
    name: str,
    method: Callable[[NDArray[np.float32]], Any],
    revealing: bool,
) -> Scores:
    """Score the filters of a layer, whose weights must be finite.

    Args:
        rows: the filters, ``(out, weights of one)``.
        name: of the layer.
        method: gives scores.
        revealing: whether these show weights that are not finite.
    """
    if not revealing:
        check_finite(rows, name)
    try:
        result = method(rows)
    except LayerError as error:
        raise LayerError(f"layer {name}: {error}") from None
    scores = result if isinstance(result, Scores) else Scores(result)
    if revealing and not np.isfinite(scores.scores).all():
        check_finite(rows, name)
    return scores
