"""Scores of kernels and ranks of filters, by the method that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.image_run import ImageRun
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.filters import (
    ANY,
    FilterLayer,
    check_finite,
    layer_seed,
    layers_to_analyse,
    select_layers,
)
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.plan import PercentileRanks, percentile_ranks
from filtersurgeon.pruning.protection import Protection, protect
from filtersurgeon.pruning.settings import PruneSettings
from filtersurgeon.ranking.annotation import read_annotation
from filtersurgeon.ranking.energy import is_revealing
from filtersurgeon.ranking.kernel_scores import KernelScores, read_kernel_scores
from filtersurgeon.ranking.ranking import Scores
from filtersurgeon.ranking.scoring import check_method, score_layers
from filtersurgeon.registry import RANKING_METHODS

Images = ImageRun | str | None


def score(
    opened: OpenedModel,
    settings: PruneSettings,
    data: Images,
    scores: KernelScores | str | None,
    progress: Progress | None,
) -> tuple[Protection, KernelScores | PercentileRanks]:
    """Score what the settings ask for: all spatial kernels, or filters to prune per layer.

    Returns:
        The network with its protected channels pinned, and the scores or percentile ranks.

    Raises:
        OptionError: an unknown method, images missing, or scores of another network.
        LayerError: no layer remains to score, or one cannot be scored.
    """
    if not settings.per_layer:
        protection = protect(opened, settings.layers)
        return protection, score_kernels(protection, settings, data, scores, progress)
    if scores is not None:
        raise OptionError("`scores` are of kernels; `per_layer` takes a ranking method")
    if settings.method == "annotated":
        return _by_annotation(opened, settings)
    protection = protect(opened, settings.layers)
    return protection, score_filters(protection, settings, data, progress)


def score_kernels(
    protection: Protection,
    settings: PruneSettings,
    data: Images,
    scores: KernelScores | str | None,
    progress: Progress | None,
) -> KernelScores:
    """Score the spatial kernels of the selected layers, or read their scores.

    With images, a file of scores is where the sums of saliency are kept; an interrupted run goes
    on from it.

    Raises:
        OptionError: an unknown method, images missing, or scores of another network.
        LayerError: no layer is left to score.
    """
    opened = protection.opened
    if settings.layers:
        protection.free_layers()
    file = scores if isinstance(scores, str) and data is not None else None
    if scores is None or file is not None:
        check_method(settings.method)
        return score_layers(
            opened.checkpoint, _spatial(protection, settings.layers), settings.method, data=data,
            options=settings.options, seed=settings.seed, file=file, progress=progress,
        )  # fmt: skip
    found = read_kernel_scores(scores) if isinstance(scores, str) else scores
    weights = {layer.name: opened.network.get_parameter(layer.tensor) for layer in opened.layers}
    for name, values in found.layers.items():
        if name not in weights or tuple(weights[name].shape[:2]) != values.shape:
            raise OptionError(
                f"the scores of layer {name} do not fit {opened.checkpoint.name}; "
                "they are of another network"
            )
    kept = {name: x for name, x in found.layers.items() if name in protection.selected}
    if not kept:
        raise LayerError("the scores are of none of the selected layers; change `layers`")
    return replace(found, layers=kept)


def _spatial(protection: Protection, globs: Sequence[str]) -> list[FilterLayer]:
    """Give the convolutions to score, along however many axes, of those that the network runs.

    They are the spatial ones, or, where layers are named, those of a kernel of one weight, too.
    """
    checkpoint = protection.opened.checkpoint
    run = {layer.name for layer in protection.opened.layers if layer.kernel}
    named = any(not glob.startswith("!") for glob in globs)
    found = layers_to_analyse(checkpoint, ["*"] if named else None, ANY)
    chosen = [layer for layer in found if layer.name in run & protection.selected]
    if not chosen:
        why = "`layers` selects" if globs else "the network runs as a layer"
        raise LayerError(f"{checkpoint.name} has no convolution to score among those that {why}")
    return chosen


def score_filters(
    protection: Protection, settings: PruneSettings, data: Images, progress: Progress | None
) -> PercentileRanks:
    """Rank the filters of every selected layer whose channels may go.

    Raises:
        OptionError: an unknown method, or images missing.
        LayerError: no layer remains to rank, or one cannot be ranked.
    """
    opened, layers = protection.opened, protection.free_layers()
    if settings.method == "saliency":
        return _by_saliency(opened, layers, settings, data, progress)
    if data is not None:
        raise OptionError(f"{settings.method} looks at no images")
    return rank_layers(opened, layers, settings.method, settings.options, settings.seed, progress)


def _by_saliency(
    opened: OpenedModel,
    layers: Iterable[WeightLayer],
    settings: PruneSettings,
    data: Images,
    progress: Progress | None,
) -> PercentileRanks:
    chosen = {layer.name: layer for layer in layers if layer.kernel}
    stored = layers_to_analyse(opened.checkpoint, list(chosen) or None, ANY)
    scored = score_layers(
        opened.checkpoint, [x for x in stored if x.name in chosen], "saliency", data=data,
        options=settings.options, seed=settings.seed, progress=progress,
    )  # fmt: skip
    return {
        name: percentile_ranks(Scores(chosen[name].filters_first(kernels).sum(axis=1)).order())
        for name, kernels in scored.layers.items()
    }


def _by_annotation(
    opened: OpenedModel, settings: PruneSettings
) -> tuple[Protection, PercentileRanks]:
    """Take the ranking in the metadata; layers that it leaves out keep their filters.

    Raises:
        OptionError: there is none, or it is of another network, or of a transposed convolution.
        LayerError: no layer is left to cut.
    """
    found = read_annotated(opened.checkpoint)
    if found is None:
        raise OptionError(
            "the checkpoint carries no ranking; make one with fsurgeon rank --annotate"
        )
    chosen = {x.name for x in select_layers(opened.layers, found.patterns)}
    chosen -= {x.name for x in opened.layers if x.is_spatial and x.name not in found.ranks}
    protection = protect(opened, settings.layers, chosen)
    for layer in protection.free_layers():
        _check_ranking(opened, layer, found.ranks)
    return protection, found.ranks


def _check_ranking(opened: OpenedModel, layer: WeightLayer, ranks: PercentileRanks) -> None:
    if layer.name not in ranks:
        return
    if layer.transposed:
        raise OptionError(
            f"layer {layer.name} is a transposed convolution, and its ranking orders its inputs; "
            f"add `layers` '!{layer.name}', or let prune rank with `method`"
        )
    if len(ranks[layer.name]) != len(opened.network.get_parameter(layer.tensor)):
        raise OptionError(
            f"the ranking of layer {layer.name} does not fit {opened.checkpoint.name}; "
            "rank it again with fsurgeon rank --annotate"
        )


def rank_layers(
    opened: OpenedModel,
    layers: Sequence[WeightLayer],
    method: str,
    options: Mapping[str, Any],
    seed: int,
    progress: Progress | None = None,
) -> PercentileRanks:
    """Rank the filters of layers by a method that looks at weights alone.

    Args:
        opened: the network.
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
        rows = filters(opened, layer)
        scores = _scores(
            rows, layer.name, partial(function, **bound, **own), is_revealing(function)
        )
        found[layer.name] = percentile_ranks(scores.order())
        if progress:
            progress(done, len(layers))
    return found


def filters(opened: OpenedModel, layer: WeightLayer) -> NDArray[np.float32]:
    """Give the flattened filters of a layer as rows, ``(out, weights of one)``."""
    weight = layer.filters_first(opened.network.get_parameter(layer.tensor).detach().float())
    rows: NDArray[np.float32] = weight.flatten(1).numpy()
    return rows


@dataclass(frozen=True)
class Annotated:
    """The ranking in a checkpoint's metadata.

    Attributes:
        ranks: of the layers that were ranked.
        patterns: by which they were chosen; none for all spatial ones.
    """

    ranks: PercentileRanks
    patterns: tuple[str, ...]


def read_annotated(checkpoint: Checkpoint) -> Annotated | None:
    """Take the ranking that an earlier command left in a checkpoint's metadata."""
    found = read_annotation(checkpoint)
    if found is None:
        return None
    ranks = {name: percentile_ranks(order) for name, order in found.orders.items()}
    return Annotated(ranks, found.patterns)


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
