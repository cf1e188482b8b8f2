"""How important kernels and filters are, by whatever method was asked for."""

from __future__ import annotations

from collections.abc import Callable

from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.explaining.kernel_scores import KernelScores, read_kernel_scores
from filtersurgeon.explaining.scoring import kernel_scores
from filtersurgeon.filters import select_layers
from filtersurgeon.graph.subject import Subject
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.learn.image_run import ImageRun
from filtersurgeon.pruning.per_layer import Standing, standing
from filtersurgeon.pruning.settings import PruneSettings
from filtersurgeon.pruning.standings import annotated, rank_layers
from filtersurgeon.ranking.ranking import Scores

Progress = Callable[[int, int], None]
Images = ImageRun | str | None


def judge_kernels(
    subject: Subject,
    settings: PruneSettings,
    data: Images,
    scores: KernelScores | str | None,
    progress: Progress | None,
) -> KernelScores:
    """Score all spatial kernels, or read their scores.

    With images, a file of scores is where the sums of saliency are kept; an interrupted run goes
    on from it.

    Raises:
        OptionError: an unknown method, images missing, or scores of another network.
    """
    file = scores if isinstance(scores, str) and data is not None else None
    if scores is None or file is not None:
        return kernel_scores(
            subject.checkpoint, settings.method, data=data, options=settings.options,
            layers=settings.layers or None, seed=settings.seed, file=file,
            progress=progress,
        )  # fmt: skip
    found = read_kernel_scores(scores) if isinstance(scores, str) else scores
    weights = {layer.name: subject.network.get_parameter(layer.tensor) for layer in subject.layers}
    for name, values in found.layers.items():
        if name not in weights or tuple(weights[name].shape[:2]) != values.shape:
            raise OptionError(
                f"the scores of layer {name} do not fit {subject.checkpoint.name}; "
                "they are of another network"
            )
    return found


def judge_filters(
    subject: Subject, settings: PruneSettings, data: Images, progress: Progress | None
) -> Standing:
    """Rank the filters of every layer whose channels may go.

    Raises:
        OptionError: an unknown method, or images missing.
        LayerError: no layer is left to judge, or one cannot be ranked.
    """
    if settings.method == "annotated":
        found = annotated(subject.checkpoint)
        if found is None:
            raise OptionError("the checkpoint carries no ranking; make one with rank --annotate")
        return found
    layers = _free_layers(subject, settings.layers)
    if settings.method == "saliency":
        scored = kernel_scores(
            subject.checkpoint, "saliency", data=data, options=settings.options,
            layers=[layer.name for layer in layers if layer.kernel], seed=settings.seed,
            progress=progress,
        )  # fmt: skip
        return {name: standing(Scores(s).order()) for name, s in scored.per_filter().items()}
    if data is not None:
        raise OptionError(f"{settings.method} looks at no images")
    return rank_layers(subject, layers, settings.method, settings.options, settings.seed, progress)


def _free_layers(subject: Subject, globs: tuple[str, ...]) -> list[WeightLayer]:
    """Give the layers that make channels which can go."""
    groups, free = subject.graph.groups, subject.free_layers
    if not free:
        name, pins = subject.checkpoint.name, list(groups.ledger.pins)
        if not pins:
            raise LayerError(f"{name}: no layer of the network makes channels that can be followed")
        raise LayerError(
            f"{name}: no channel can be cut, such as: {pins[0][1]}; "
            "fsurgeon inspect --channels shows why"
        )
    return select_layers(free, globs)
