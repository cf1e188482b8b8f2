"""Remove channels and update every dependent layer, by ChannelPrune or a fraction per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec, ImageRun, as_run, part_of
from filtersurgeon.data.reading import has_labels
from filtersurgeon.data.splits import FIT, warning_of
from filtersurgeon.errors import OptionError
from filtersurgeon.filters import as_globs
from filtersurgeon.networks.opened_module import transforms_modules
from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
from filtersurgeon.pruning.report import PruneReport
from filtersurgeon.pruning.settings import (
    RECONSTRUCTION,
    PruneSettings,
    read_amount,
    read_ratios,
)
from filtersurgeon.ranking.annotation import read_ranking
from filtersurgeon.ranking.kernel_scores import KernelScores
from filtersurgeon.ranking.method import check_kernel_method, takes_images
from filtersurgeon.transforms._cut_to_target import compare, list_options, open_at, prepare_cuts

if TYPE_CHECKING:
    from filtersurgeon.pruning.plan import ChannelScores, PercentileRanks
    from filtersurgeon.pruning.protection import Protection


@transforms_modules
def prune(
    checkpoint: Checkpoint,
    *,
    sparsity: float | None = None,
    target: str | None = None,
    per_layer: bool = False,
    ratios: Mapping[str, float] | None = None,
    method: str | Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
    mode: str = "channelprune",
    border: str = "keep",
    fill: str = "zero",
    allocate: str | None = None,
    select: str | None = None,
    streams: str | None = None,
    runtime: str = "torch",
    compensate: str | None = None,
    min_channels: int = 1,
    round_to: int | None = None,
    layers: Iterable[str] | None = None,
    keep_frozen: bool = False,
    seed: int = 0,
    verify: bool = True,
    data: ImageRun | DataSpec | str | Any | None = None,
    scores: KernelScores | str | None = None,
    plan: CutPlan | str | None = None,
    observe: Callable[[PruneReport], None] | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Remove channels from a network and update every dependent layer.

    Without ``per_layer``, the least salient spatial kernels of the whole network are zeroed, and
    the channels that have none left anywhere are cut. Source: Gaudio et al., *ExplainFix:
    Explainable Spatially Fixed Deep Networks*, section 3.3 (ChannelPrune). With it, every layer
    loses the same share of its filters, by any ranking. Source: Thakur et al., *Does Geometric
    Structure in Convolutional Filter Space Provide Filter Redundancy Information?*, Table 3.

    Instead of a checkpoint, ``prune(module, example_inputs, ...)`` takes a module in memory and
    gives a pruned module of the same class, device, types, modes and hooks. The module stays as it
    is, unless ``copy=False``. ``example_inputs`` is a tensor, a tuple of arguments, a dict of
    arguments by name, or the size of an image.

    Args:
        checkpoint: the network.
        sparsity: share of kernels to zero, or of each layer's filters to cut.
        target: instead of a sparsity, the size to reach: ``macs=0.5x``, ``params=1.5M`` or
            ``latency=12ms``. Without a method, the network keeps what accuracy it can: every cut
            is measured on images, the channels that go are those that the others can stand in for,
            and the layers that read them are refitted front to back. Without ``data``, the images
            are made from the network's own batch normalisation.
        per_layer: cut a share of each layer's filters.
        ratios: shares by glob, such as ``{"layer1.*": 0.3}``, for layers that lose another share
            than ``sparsity``, by default 0; implies ``per_layer``. Of several globs that match a
            layer, the last holds; of several shares stated for layers that make the same channels,
            the smallest.
        method: a ranking method, by which filters are ranked with ``per_layer``, else kernels are
            scored; methods that compare the filters of a layer with each other, such as
            ``archetype``, do not score kernels. By default, a ranking in the checkpoint's metadata
            where there is one and ``per_layer`` is set, else saliency if there are images with
            labels, else lamp for kernels and l2 for filters. Or a function that takes a
            :class:`~filtersurgeon.ChannelGroup` and gives one score for each of its channels,
            higher for those to keep; implies ``per_layer``.
        options: the method's own.
        mode: ``channelprune``, the paper's: a channel goes once any spatial convolution has no
            kernel left for it; or ``exact``: only if the outputs stay as they are.
        border: in exact mode, ``keep`` channels that cannot be folded exactly because of zero
            padding, or ``fold`` them.
        fill: what zeroed kernels that are not cut become: ``zero``, ``fillzero`` (the paper's
            noise), or ``restore`` (what they were).
        allocate: how a target is shared out among the layers: ``measured`` (by the loss that
            was measured for each) or ``uniform``; by default measured, but uniform where that
            keeps less than three quarters and uniform loses less.
        select: which channels of a layer go: ``reconstruction`` (those that the others can stand
            in for), or a ranking method; with ``allocate``.
        streams: ``keep`` residual streams whole, or ``cut`` them as well; by default they are cut
            for a target that cannot be reached otherwise, and where fewer than 92 % of the held-out
            images keep their class and cutting them loses less; with ``allocate``.
        runtime: what a target for the latency is measured in: ``torch``, on the device of ``data``,
            or ``onnxruntime``.
        compensate: how the layers that read cut channels make up for them, without training:
            ``none``, ``merge`` (kept filters stand in for those that they mix; no images),
            ``least-squares`` (refitted on images), ``sequential`` (refitted front to back, the
            default of ``allocate``) or ``batchnorm`` (statistics of images).
        min_channels: how many channels every layer keeps.
        round_to: widths are multiples of this; by default 1, or with ``allocate`` 8 for wide
            layers. With ``allocate``, 8 or more also lets residual branches go whole.
        layers: globs; None scores every spatial convolution, or with ``per_layer`` every layer. A
            layer that they leave out keeps all its filters; so do layers that make the same
            channels, as along a residual stream or around a depthwise convolution.
        keep_frozen: change no parameter that does not train, of a module in memory; by default
            frozen layers are pruned like all others.
        seed: random seed.
        verify: compare outputs with those of the original network, its removed channels zeroed.
        data: images for saliency, which needs labels, to compensate with, and to compare the
            networks on for ``observe``: an :class:`ImageRun`, or its images alone, the name of a
            file or data set, or images in memory.
        scores: scores of kernels, or their file, instead of a method; with images, the file that
            saliency is kept in, so that an interrupted run goes on.
        plan: widths, as an earlier cut reported them, or their file, instead of a target.
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
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> slim = fs.prune(module, (3, 16, 16), sparsity=0.5, per_layer=True)
        >>> slim[0].out_channels, slim[2].in_channels, module[0].out_channels
        (4, 4, 8)
        >>> def largest(group):
        ...     return sum(x.rows().abs().amax(1) for x in group.members if x.role == "makes")
        >>> fs.prune(module, (3, 16, 16), ratios={"0": 0.25}, method=largest)[0].out_channels
        6
    """
    from filtersurgeon.pruning.compensation.calibration import open_calibration
    from filtersurgeon.pruning.compensation.compensate import (
        apply_compensation,
        calibrates,
        check_images,
    )
    from filtersurgeon.pruning.scoring import score, score_groups
    from filtersurgeon.pruning.surgery import cut, describe, make_plan

    data = None if data is None else as_run(data)
    shares = read_ratios(ratios)
    function = method if callable(method) else None
    if callable(method):
        method = f"function {getattr(method, '__name__', type(method).__name__)}"
    per_layer = per_layer or bool(shares) or function is not None
    keeping = bool(allocate or select or streams or plan is not None)
    plain = not per_layer and mode == "channelprune" and fill == "zero" and compensate is None
    if target is not None and plain and method is None and scores is None:
        keeping = True
    usual, assumed = _default_method(checkpoint, per_layer, data, scores)
    chosen = method or usual
    settings = PruneSettings(
        **read_amount(sparsity, target), planned=plan is not None, per_layer=per_layer,
        ratios=shares, method=chosen,
        options=dict(options or {}), mode=mode, border=border, fill=fill,
        compensate=compensate or ("sequential" if keeping else "none"), min_channels=min_channels,
        round_to=round_to, layers=tuple(as_globs(layers)), keep_frozen=keep_frozen, seed=seed,
        allocate=(allocate or "measured") if keeping else None, streams=streams,
        select=select or RECONSTRUCTION, runtime=runtime,
    )  # fmt: skip
    if keeping:
        if method is not None or scores is not None:
            raise OptionError("`method` and `scores` choose no channels here; name a `select`")
        prepared = prepare_cuts(
            checkpoint, settings, data, plan=plan, equal=allocate is None, progress=progress
        )
        return prepared.cut(settings, verify=verify, observe=observe, progress=progress)
    check_images(settings.compensate, data)
    if not per_layer and (scores is None or data is not None):
        check_kernel_method(chosen)
    # Images that neither scores nor a compensation look at show the accuracy in the report.
    fitted = calibrates(settings.compensate)
    ranked, looked_at = takes_images(settings.method), fitted or observe is not None
    own = ranked or not looked_at
    size = None
    if data is not None and (ranked or looked_at):
        size = open_calibration(checkpoint, as_run(data), seed).image_size()
    opened = open_at(checkpoint, size)
    seen = data if own and function is None else None
    protection: Protection
    scored: KernelScores | PercentileRanks | ChannelScores
    if function is None:
        protection, scored = score(opened, settings, seen, scores, progress)
    elif scores is not None or options:
        raise OptionError("`method` is a function here; leave `scores` and `options` out")
    else:
        protection, scored = score_groups(opened, settings, function)
    opened = protection.opened
    share, cuts = make_plan(opened, settings, scored)
    images = _images(checkpoint, settings, scored, data if fitted else seen)
    entry = HistoryEntry(
        "prune",
        list_options(settings, target, scores, seen),
        data=images,
        warning=warning_of(images),
    )
    make_up = None
    if settings.compensate != "none":
        make_up = partial(
            apply_compensation, settings.compensate, opened, cuts.keep, images=data, seed=seed
        )
    pruned, proof = cut(opened, cuts, settings, entry, compensate=make_up, check=verify)
    if observe:
        worth = None if data is None else compare(opened, pruned, as_run(data), seed)
        report = describe(
            protection, cuts, share, pruned, proof, worth, settings=settings, scored=scored
        )
        notes = (*([assumed] if assumed and method is None else []), *report.notes)
        observe(replace(report, notes=notes))
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


def _default_method(
    checkpoint: Checkpoint, per_layer: bool, data: ImageRun | None, scores: object
) -> tuple[str, str]:
    """Give the method where none is named, and what to say of it."""
    if per_layer and "ranking" in checkpoint.annotations:
        return "annotated", ""
    usual = "l2" if per_layer else "lamp"
    if data is None:
        return usual, ""
    # With images, a file of scores keeps saliency.
    spec = data.data
    if scores is not None or has_labels(spec.source, part_of(spec, FIT), spec.labels):
        return "saliency", ""
    what = "filters are ranked" if per_layer else "kernels are scored"
    return usual, f"the images have no labels, which saliency needs: {what} by {usual}"
