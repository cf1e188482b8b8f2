"""Cut channels out of a network: ChannelPrune over all spatial kernels, or a share per layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import ImageRun, as_run, part_of
from filtersurgeon.data.splits import FIT, warning_of
from filtersurgeon.errors import OptionError, OutputError
from filtersurgeon.filters import as_globs
from filtersurgeon.pruning.report import PruneReport
from filtersurgeon.pruning.settings import RECONSTRUCTION, PruneSettings, read_amount
from filtersurgeon.ranking.annotation import read_ranking
from filtersurgeon.ranking.kernel_scores import KernelScores
from filtersurgeon.ranking.method import Method, check_kernel_method, takes_images

if TYPE_CHECKING:
    from filtersurgeon.graph.opened_model import OpenedModel
    from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
    from filtersurgeon.pruning.worth import Worth


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
    allocate: str | None = None,
    select: str | None = None,
    streams: str = "keep",
    compensate: str | None = None,
    min_channels: int = 1,
    round_to: int | None = None,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    verify: bool = True,
    data: ImageRun | str | None = None,
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

    Args:
        checkpoint: the network.
        sparsity: share of kernels to zero, or of each layer's filters to cut.
        target: instead of a sparsity, the size to reach: ``macs=0.5x``, ``params=1.5M`` or
            ``latency=12ms``. Without a method, the network keeps what accuracy it can: every cut
            is measured on images, the channels that go are those that the others can stand in for,
            and the layers that read them are refitted front to back. Without ``data``, the images
            are made from the network's own batch normalisation.
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
        allocate: how a target is shared out among the layers: ``measured`` (by the loss that
            was measured for each) or ``uniform``.
        select: which channels of a layer go: ``reconstruction`` (those that the others can stand
            in for), or a ranking method; with ``allocate``.
        streams: ``keep`` residual streams whole, or ``cut`` them as well; with ``allocate``.
        compensate: how the layers that read cut channels make up for them, without training:
            ``none``, ``merge`` (kept filters stand in for those that they mix; no images),
            ``least-squares`` (refitted on images), ``sequential`` (refitted front to back, the
            default of ``allocate``) or ``batchnorm`` (statistics of images).
        min_channels: how many channels every layer keeps.
        round_to: widths are multiples of this; by default 1, or with ``allocate`` 8 for wide
            layers.
        layers: globs; None scores every spatial convolution, or with ``per_layer`` every layer. A
            layer that they leave out keeps all its filters; so do layers that make the same
            channels, as along a residual stream or around a depthwise convolution.
        seed: of whatever is drawn.
        verify: compare outputs with those of the original network, its removed channels zeroed.
        data: labelled images for saliency, and to compensate with.
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
    """
    from filtersurgeon.graph.opened_model import open_model
    from filtersurgeon.pruning.compensation.compensate import (
        apply_compensation,
        calibrates,
        check_images,
    )
    from filtersurgeon.pruning.scoring import score
    from filtersurgeon.pruning.surgery import cut, describe, make_plan

    keeping = bool(allocate or select or streams != "keep" or plan is not None)
    plain = not per_layer and mode == "channelprune" and fill == "zero" and compensate is None
    if target is not None and plain and method is None and scores is None:
        keeping = True
    chosen = method or _default_method(checkpoint, per_layer, data)
    settings = PruneSettings(
        **read_amount(sparsity, target), planned=plan is not None, per_layer=per_layer,
        method=chosen,
        options=dict(options or {}), mode=mode, border=border, fill=fill,
        compensate=compensate or ("sequential" if keeping else "none"), min_channels=min_channels,
        round_to=round_to, layers=tuple(as_globs(layers)), seed=seed,
        allocate=(allocate or "measured") if keeping else None, streams=streams,
        select=select or RECONSTRUCTION,
    )  # fmt: skip
    if keeping:
        if method is not None or scores is not None:
            raise OptionError("`method` and `scores` choose no channels here; name a `select`")
        return _prune_and_refit(
            checkpoint, settings, target, data, plan, verify=verify, observe=observe,
            progress=progress,
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
    share, cuts = make_plan(opened, settings, scored)
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
            apply_compensation, settings.compensate, opened, cuts.keep, images=data, seed=seed
        )
    pruned, proof = cut(opened, cuts, settings, entry, compensate=make_up, check=verify)
    if observe:
        worth = None if data is None else _compare(opened, pruned, as_run(data), seed)
        observe(describe(protection, cuts, share, pruned, proof, worth))
    return pruned


def _prune_and_refit(
    checkpoint: Checkpoint,
    settings: PruneSettings,
    target: str | None,
    data: ImageRun | str | None,
    plan: CutPlan | str | None,
    *,
    verify: bool,
    observe: Callable[[PruneReport], None] | None,
    progress: Progress | None,
) -> Checkpoint:
    """Cut to a target or by a plan, measured and refitted on images."""
    from filtersurgeon.graph.opened_model import open_model
    from filtersurgeon.pruning.compensation.calibration import open_calibration
    from filtersurgeon.pruning.compensation.compensate import apply_compensation
    from filtersurgeon.pruning.protection import protect
    from filtersurgeon.pruning.reconstruction.made import make_calibration
    from filtersurgeon.pruning.reconstruction.plan_file import CutPlan
    from filtersurgeon.pruning.reconstruction.reconstruct import prepare, reconstruct
    from filtersurgeon.pruning.scoring import rank_layers
    from filtersurgeon.pruning.surgery import cut, describe

    widths = None if plan is None else CutPlan.read(plan)
    protection = protect(open_model(checkpoint), settings.layers)
    opened = protection.opened
    ranks = None
    if settings.select != RECONSTRUCTION:
        ranks = rank_layers(
            opened,
            protection.free_layers(),
            Method(settings.select, settings.options, settings.seed),
        )
    if data is None:
        calibration = make_calibration(opened, settings.seed, progress)
    else:
        calibration = open_calibration(opened, as_run(data), settings.seed)
    prepared = prepare(
        opened, calibration, streams=settings.streams == "cut", ranks=ranks,
        losses=settings.allocate == "measured" and widths is None, seed=settings.seed,
        tell=progress,
    )  # fmt: skip
    found = reconstruct(
        prepared, settings, keep=None if widths is None else widths.keep, tell=progress
    )
    images = {} if data is None else part_of(as_run(data).data, FIT).described()
    entry = HistoryEntry(
        "prune", _list_options(settings, target, None, data), data=images,
        warning=warning_of(images),
    )  # fmt: skip

    def make_up(changed: Mapping[str, Any]) -> Mapping[str, Any]:
        if settings.compensate in ("sequential", "none"):
            return {**changed, **found.changed}
        return apply_compensation(
            settings.compensate, opened, found.plan.keep, changed, images=data, seed=settings.seed
        )

    pruned, proof = cut(opened, found.plan, settings, entry, compensate=make_up, check=verify)
    if observe:
        worth = found.worth
        if data is None:
            worth = None
        elif worth is None:
            worth = _compare(opened, pruned, as_run(data), settings.seed)
        report = describe(protection, found.plan, 0.0, pruned, proof, worth)
        notes = (*report.notes, *found.notes(made=data is None))
        observe(replace(report, notes=notes, plan=CutPlan.of(found, str(settings.target))))
    return pruned


def _compare(opened: OpenedModel, pruned: Checkpoint, run: ImageRun, seed: int) -> Worth | None:
    """See how the outputs of a pruned network compare on some of the images."""
    from filtersurgeon.networks.build import build
    from filtersurgeon.pruning.compensation.calibration import open_calibration
    from filtersurgeon.pruning.worth import compare_worth

    calibration = open_calibration(opened, replace(run, tell=None), seed)
    original = calibration.replica(opened, {})
    slim = build(pruned).float().eval().to(calibration.device)
    try:
        return compare_worth(original, slim, calibration.labelled_batches())
    except OutputError:
        return None  # what it returns cannot be compared


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
        "method": _said_method(settings, scores, data),
        "options": dict(settings.options),
        "mode": settings.mode if settings.mode != "channelprune" else None,
        "border": settings.border if settings.border != "keep" else None,
        "fill": settings.fill if settings.fill != "zero" else None,
        "compensate": settings.compensate if settings.compensate != "none" else None,
        "min_channels": settings.min_channels if settings.min_channels != 1 else None,
        "round_to": settings.round_to if settings.round_to != 1 else None,
        "allocate": settings.allocate,
        "select": settings.select if settings.select != RECONSTRUCTION else None,
        "streams": settings.streams if settings.streams != "keep" else None,
        "layers": list(settings.layers),
        "seed": settings.seed,
    }
    return {key: value for key, value in said.items() if value not in (None, False, 0, [], {})}


def _said_method(settings: PruneSettings, scores: object, data: object) -> str | None:
    if settings.allocate is not None or (scores is not None and data is None):
        return None
    return settings.method
