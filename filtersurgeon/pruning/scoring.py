"""Scores of kernels and ranks of filters, by the method that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import ImageRun
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.filters import (
    ANY,
    FilterLayer,
    check_finite,
    layers_to_analyse,
    select_layers,
)
from filtersurgeon.graph.channel_groups import ChannelGroup, Cuttable
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.frozen import protect_as
from filtersurgeon.pruning.plan import ChannelScores, PercentileRanks, percentile_ranks
from filtersurgeon.pruning.protection import Protection
from filtersurgeon.pruning.settings import PruneSettings
from filtersurgeon.ranking.annotation import read_annotation
from filtersurgeon.ranking.kernel_scores import KernelScores, read_kernel_scores, score_layers
from filtersurgeon.ranking.method import Method, Scores

Images = ImageRun | str | None
_MATRIX = 2


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
        protection = protect_as(opened, settings)
        return protection, score_kernels(protection, settings, data, scores, progress)
    if scores is not None:
        raise OptionError("`scores` are of kernels; `per_layer` takes a ranking method")
    if settings.method == "annotated":
        return _by_annotation(opened, settings)
    protection = protect_as(opened, settings)
    return protection, score_filters(protection, settings, data, progress)


def score_groups(
    opened: OpenedModel, settings: PruneSettings, function: Callable[[ChannelGroup], Any]
) -> tuple[Protection, ChannelScores]:
    """Score channels by a function of a group.

    Args:
        opened: the network.
        settings: how to prune.
        function: takes a :class:`~filtersurgeon.ChannelGroup` and gives one finite score for each
            of its channels, higher for those to keep.

    Raises:
        OptionError: it gives something else.
        LayerError: no layer remains to score.
    """
    protection = protect_as(opened, settings)
    opened = protection.opened
    made = [x.out_channels for x in protection.free_layers() if x.out_channels is not None]
    groups = opened.graph.groups
    scored = np.zeros(len(groups), bool)
    for axis in made:
        scored[groups.members(axis)] = True
    scored &= ~groups.pinned
    scores = np.zeros(len(groups))
    for group in Cuttable(opened).open_groups(x for x in groups.bundles if scored[x.groups].any()):
        scores[group.numbers] = _read_scores(function(group), group)
    return protection, ChannelScores(scores, scored)


def _read_scores(found: Any, group: ChannelGroup) -> NDArray[np.float64]:
    try:
        values = found.detach().cpu().double().numpy() if hasattr(found, "detach") else found
        scores = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        scores = np.empty(0)
    if scores.shape != (group.size,) or not np.isfinite(scores).all():
        raise OptionError(
            f"`method` should give {group.size} finite scores for the channels of "
            f"{', '.join(group.made_by)}, one each"
        )
    return scores


def ratios_by_layer(
    layers: Sequence[WeightLayer], ratios: Iterable[tuple[str, float]]
) -> Mapping[str, float]:
    """Give the share that is stated for layers; the last glob that matches one holds.

    Raises:
        LayerError: a glob matches no layer.
    """
    return {x.name: share for glob, share in ratios for x in select_layers(layers, [glob])}


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
    method = Method(settings.method, settings.options, settings.seed)
    method.check_images(data)
    if data is not None:
        return _by_images(opened, layers, method, data, progress)
    return rank_layers(opened, layers, method, progress)


def _by_images(
    opened: OpenedModel,
    layers: Iterable[WeightLayer],
    method: Method,
    data: Images,
    progress: Progress | None,
) -> PercentileRanks:
    chosen = {layer.name: layer for layer in layers}
    wanted = [*_convolutions(opened.checkpoint, chosen), *_linear(opened.checkpoint, chosen)]
    found = method.run(opened.checkpoint, wanted, data, progress)
    by_layer = found.layers if isinstance(found, KernelScores) else found
    return {
        x.name: percentile_ranks(
            Scores(_by_filter(chosen[x.name], np.asarray(by_layer[x.name]))).order()
        )
        for x in wanted
    }


def _convolutions(
    checkpoint: Checkpoint, chosen: Mapping[str, WeightLayer]
) -> Iterable[FilterLayer]:
    named = [name for name, layer in chosen.items() if layer.kernel]
    stored = layers_to_analyse(checkpoint, named, ANY) if named else []
    return [layer for layer in stored if layer.name in chosen]


def _linear(checkpoint: Checkpoint, chosen: Mapping[str, WeightLayer]) -> Iterator[FilterLayer]:
    """Give linear layers, each weight of which is a kernel of one position."""
    for name, layer in chosen.items():
        if layer.kernel or layer.tensor not in checkpoint:
            continue
        stored = checkpoint[layer.tensor]
        if len(stored.shape) == _MATRIX:
            yield FilterLayer(name, layer.tensor, "pointwise", stored)


def _by_filter(layer: WeightLayer, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give a score for every filter, of scores for all filters or all kernels of a weight.

    Raises:
        OptionError: the filters of a transposed convolution, which are its inputs in the weight.
    """
    if scores.ndim == 1:
        if layer.transposed:
            raise OptionError(
                f"layer {layer.name} is a transposed convolution, and this method scores its "
                f"inputs; add `layers` '!{layer.name}'"
            )
        return scores
    summed: NDArray[np.float64] = layer.filters_first(scores).sum(axis=1)
    return summed


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
            "the checkpoint contains no ranking; create one with fsurgeon rank --annotate"
        )
    chosen = {x.name for x in select_layers(opened.makers, found.patterns)}
    chosen -= {x.name for x in opened.makers if x.is_spatial and x.name not in found.ranks}
    protection = protect_as(opened, settings, chosen)
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
    method: Method,
    progress: Progress | None = None,
) -> PercentileRanks:
    """Rank the filters of layers by a method that looks at weights alone.

    Args:
        opened: the network.
        layers: which of its layers.
        method: a ranking method that takes no images.
        progress: told how many layers of how many are done.

    Raises:
        LayerError: a layer that cannot be ranked (named).
    """
    found = {}
    for done, layer in enumerate(layers, 1):
        scores = _scores(filters(opened, layer), layer.name, method)
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


def _scores(rows: NDArray[np.float32], name: str, method: Method) -> Scores:
    """Score the filters of a layer, ``(out, weights of one)``, whose weights must be finite."""
    if not method.reveals:
        check_finite(rows, name)
    scores = method.score(rows, name)
    if method.reveals and not np.isfinite(scores.scores).all():
        check_finite(rows, name)
    return scores
