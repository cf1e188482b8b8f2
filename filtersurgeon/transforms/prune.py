"""Remove channels and update every dependent layer, by ChannelPrune or a fraction per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import ImageRun, as_run, part_of
from filtersurgeon.data.splits import FIT, warning_of
from filtersurgeon.filters import as_globs
from filtersurgeon.pruning.report import PruneReport
from filtersurgeon.pruning.settings import PruneSettings, read_amount
from filtersurgeon.ranking.annotation import read_ranking
from filtersurgeon.ranking.kernel_scores import KernelScores
from filtersurgeon.ranking.method import check_kernel_method, takes_images


def prune(
    checkpoint: Checkpoint,
    *,
    sparsity: float | None = None,
    target: str | None = None,
    per_layer: bool = False,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    mode: str = "channelprune",
    border: str = "keep",
    fill: str = "zero",
    compensate: str = "none",
    min_channels: int = 1,
    round_to: int = 1,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    verify: bool = True,
    data: ImageRun | str | None = None,
    scores: KernelScores | str | None = None,
    observe: Callable[[PruneReport], None] | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Remove channels from a network and update every dependent layer.

    Without ``per_layer``, the least salient spatial kernels of the whole network are zeroed, and
    the channels that have none left anywhere are cut. Source: Gaudio et al., *ExplainFix:
    Explainable Spatially Fixed Deep Networks*, section 3.3 (ChannelPrune). With it, every layer
    loses the same share of its filters, by any ranking. Source: Thakur et al., *Does Geometric
    Structure in Convolutional Filter Space Provide Filter Redundancy Information?*, Table 3.

    Args:
        checkpoint: the network.
        sparsity: share of kernels to zero, or of each layer's filters to cut.
        target: instead of a sparsity, the size to reach: ``params=0.2x`` or ``macs=0.5x``.
        per_layer: cut a share of each layer's filters.
        method: a ranking method, by which filters are ranked with ``per_layer``, else kernels are
            scored; methods that compare the filters of a layer with each other, such as
            ``archetype``, do not score kernels. By default, a ranking in the checkpoint's metadata
            where there is one and ``per_layer`` is set, else saliency if there are images, else
            lamp for kernels and l2 for filters.
        options: the method's own.
        mode: ``channelprune``, the paper's: a channel goes once any spatial convolution has no
            kernel left for it; or ``exact``: only if the outputs stay as they are.
        border: in exact mode, ``keep`` channels whose constant is felt differently at padded
            borders, or ``fold`` them all the same.
        fill: what zeroed kernels that are not cut become: ``zero``, ``fillzero`` (the paper's
            noise), or ``restore`` (what they were).
        compensate: how the layers that read cut channels make up for them, without training:
            ``none``, ``merge`` (kept filters stand in for those that they mix; no images),
            ``least-squares`` (refitted on images) or ``batchnorm`` (statistics of images).
        min_channels: how many channels every layer keeps.
        round_to: widths are rounded up to a multiple.
        layers: globs; None scores every spatial convolution, or with ``per_layer`` every layer. A
            layer that they leave out keeps all its filters; so do layers that make the same
            channels, as along a residual stream or around a depthwise convolution.
        seed: of whatever is drawn.
        verify: compare outputs with those of the original network, its removed channels zeroed.
        data: labelled images for saliency, and to compensate with.
        scores: scores of kernels, or their file, instead of a method; with images, the file that
            saliency is kept in, so that an interrupted run goes on.
        observe: told what was done, a :class:`~filtersurgeon.PruneReport`.
        progress: told how many layers, or images, of how many are done.

    Raises:
        OptionError: a value that has no meaning.
        ArchitectureError: the network cannot be built.
        GraphError: its channels cannot be followed, or the cut does not hold what it promises.
        LayerError: no layer fits, or one cannot be scored.
        OutputError: the network returns no tensors, or hides them in an unknown object.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> pruned = fs.prune(checkpoint, sparsity=0.5, per_layer=True, method="l2")
        >>> checkpoint["conv1.0.weight"].shape, pruned["conv1.0.weight"].shape
        ((16, 3, 3, 3), (8, 3, 3, 3))
        >>> checkpoint["conv1.3.weight"].shape, pruned["conv1.3.weight"].shape
        ((16, 16, 3, 3), (8, 8, 3, 3))
    """
    from filtersurgeon.graph.opened_model import open_model
    from filtersurgeon.pruning.compensation.compensate import (
        apply_compensation,
        calibrates,
        check_images,
    )
    from filtersurgeon.pruning.scoring import score
    from filtersurgeon.pruning.surgery import cut, describe, make_plan

    chosen = method or _default_method(checkpoint, per_layer, data)
    settings = PruneSettings(
        **read_amount(sparsity, target), per_layer=per_layer, method=chosen,
        options=dict(options or {}), mode=mode, border=border, fill=fill,
        compensate=compensate, min_channels=min_channels,
        round_to=round_to, layers=tuple(as_globs(layers)), seed=seed,
    )  # fmt: skip
    check_images(settings.compensate, data)
    if not per_layer and (scores is None or data is not None):
        check_kernel_method(chosen)
    opened = open_model(checkpoint)
    # With a compensation, images that the method does not look at are there for that alone.
    own = takes_images(settings.method) or not calibrates(settings.compensate)
    seen = data if own else None
    protection, scored = score(opened, settings, seen, scores, progress)
    opened = protection.opened
    share, plan = make_plan(opened, settings, scored)
    images = _images(checkpoint, settings, scored, data)
    entry = HistoryEntry(
        "prune",
        _list_options(settings, target, scores, seen),
        data=images,
        warning=warning_of(images),
    )
    make_up = None
    if settings.compensate != "none":
        make_up = partial(
            apply_compensation, settings.compensate, opened, plan.keep, images=data, seed=seed
        )
    pruned, proof = cut(opened, plan, settings, entry, compensate=make_up, check=verify)
    if observe:
        observe(describe(protection, plan, share, pruned, proof))
    return pruned


def _images(
    checkpoint: Checkpoint, settings: PruneSettings, scored: object, data: ImageRun | str | None
) -> Mapping[str, str]:
    """Name the images that weights are scored or fitted with, also by stored scores or ranks."""
    if data is not None:
        return part_of(as_run(data).data, FIT).described()
    if isinstance(scored, KernelScores):
        return scored.data
    ranking = read_ranking(checkpoint) if settings.method == "annotated" else None
    return {} if ranking is None else ranking.data


def _default_method(checkpoint: Checkpoint, per_layer: bool, data: object) -> str:
    if per_layer and "ranking" in checkpoint.annotations:
        return "annotated"
    if data is not None:
        return "saliency"
    return "l2" if per_layer else "lamp"


def _list_options(
    settings: PruneSettings, target: str | None, scores: object, data: object
) -> dict[str, Any]:
    """List the options that differ from their defaults; no paths."""
    said = {
        "sparsity": settings.sparsity,
        "target": target,
        "per_layer": settings.per_layer,
        "method": None if scores is not None and data is None else settings.method,
        "options": dict(settings.options),
        "mode": settings.mode if settings.mode != "channelprune" else None,
        "border": settings.border if settings.border != "keep" else None,
        "fill": settings.fill if settings.fill != "zero" else None,
        "compensate": settings.compensate if settings.compensate != "none" else None,
        "min_channels": settings.min_channels if settings.min_channels != 1 else None,
        "round_to": settings.round_to if settings.round_to != 1 else None,
        "layers": list(settings.layers),
        "seed": settings.seed,
    }
    return {key: value for key, value in said.items() if value not in (None, False, 0, [], {})}
