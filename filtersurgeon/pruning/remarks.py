"""Remarks on a cut beside its sizes: little was removed and why, or much was lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from filtersurgeon.errors import GraphError
from filtersurgeon.graph.labels import Axis
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.verify import Proof
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.learn.evaluation import unknown_accuracy
from filtersurgeon.pruning.exact import still_used
from filtersurgeon.pruning.nothing_to_cut import what_keeps_all
from filtersurgeon.pruning.plan import Plan
from filtersurgeon.pruning.report import (
    ORIGINAL,
    SILENCED,
    SILENCED_AND_ZEROED,
    PruneReport,
)
from filtersurgeon.pruning.settings import PruneSettings

_LITTLE = 0.01
"""Share of the parameters below which a cut needs an explanation."""

_TRIED = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_TRIED_PER_LAYER = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)

Replan = Callable[[PruneSettings, float], Plan]
"""Plans the same cut by other settings and another sparsity."""


def remarks(
    report: PruneReport, opened: OpenedModel, proof: Proof | None, min_channels: int = 1
) -> Iterator[str]:
    """Say where less was kept, or other things than the channels changed."""
    if proof is not None and proof.blind:
        yield (
            "the outputs no longer depend on the image: too much was zeroed where it matters; "
            "score kernels by saliency (`data`), lower `sparsity`, or train the network again"
        )
    if report.rescued:
        count, least = len(report.rescued), f"left with fewer than `min_channels` {min_channels}"
        yield (
            f"{count} layer{'s' if count > 1 else ''} would have been "
            f"{'emptied' if min_channels == 1 else least} and keep the best: "
            + ", ".join(report.rescued[:3])
            + (" ..." if len(report.rescued) > 3 else "")
        )
    if opened.folded and report.after.parameters < report.before.parameters:
        yield "convolutions that standardise their weights became ordinary ones where they were cut"


def compared_with(settings: PruneSettings, report: PruneReport) -> str:
    """Name the network whose outputs those of the pruned one were compared with."""
    zeroed = report.zeroed[0] and settings.fill != "restore"
    if settings.mode != "exact" and not (zeroed and report.after == report.before):
        return SILENCED_AND_ZEROED if zeroed else SILENCED
    return f"{ORIGINAL} with the kernels zeroed" if zeroed else ORIGINAL


def why_little(
    opened: OpenedModel, settings: PruneSettings, report: PruneReport, plan: Plan, replan: Replan
) -> str:
    """Say why hardly any channel was removed, and which option removes more; else nothing.

    Args:
        opened: the network.
        settings: how it was pruned, by a sparsity.
        report: what was done.
        plan: what was removed.
        replan: plans with other settings.
    """
    before, after = report.before.parameters, report.after.parameters
    removed = int((~plan.keep).sum())
    if settings.target is not None or before - after >= _LITTLE * before:
        return ""
    said = "no channel is removed"
    if removed:
        said = f"only {removed} channel{'s are' if removed > 1 else ' is'} removed"
    reason = _reason(opened, settings, plan, replan)
    return f"{said}: {reason}" if reason else ""


def _reason(opened: OpenedModel, settings: PruneSettings, plan: Plan, replan: Replan) -> str:
    if not opened.free_layers:
        makers = [layer for layer in opened.makers if layer.out_channels is not None]
        return what_keeps_all(opened, makers)[0]
    share = settings.sparsity or 0.0
    for name in ("round_to", "min_channels"):
        other: dict[str, Any] = {name: 1}
        if getattr(settings, name) in (None, 1):
            continue
        more = _count(replan(replace(settings, **other), share)) - _count(plan)
        if more > 0:
            return f"`{name}` keeps {more} that would go without it"
    if settings.mode == "exact":
        return _reason_exact(settings, plan, replan)
    if held := _idle_but_kept(opened, plan):
        return what_keeps_all(opened, held, "; `per_layer` removes channels of other layers")[0]
    if settings.per_layer:
        if not share:
            return "the shares are 0" if not settings.ratios else ""
        held = [layer for layer in opened.makers if _pinned(opened, layer.out_channels)]
        if len(held) > len(opened.free_layers):
            return what_keeps_all(opened, held)[0]
        least = _least_share(settings, plan, replan, _TRIED_PER_LAYER)
        remedy = f"; `sparsity` {least:g} removes some" if least else ""
        return f"{share:g} of a layer's channels is less than one in most layers{remedy}"
    if not share:
        return "`sparsity` 0 zeroes no kernel"
    least = _least_share(settings, plan, replan, _TRIED)
    higher = f"`sparsity` {least:g} removes more, " if least else ""
    return (
        "a channel goes once a layer has no kernel left for it; "
        f"{higher}`per_layer` removes this share of every layer"
    )


def _idle_but_kept(opened: OpenedModel, plan: Plan) -> list[WeightLayer]:
    """Give the layers with filters that have no kernel left, and whose channels all stay.

    All layers whose kernels were scored, where none of them can lose a channel.
    """
    scored = [layer for layer in opened.layers if layer.name in plan.zeroed]
    held = [layer for layer in scored if _pinned(opened, layer.out_channels)]
    if len(held) == len(scored) and not any(_open(opened, x.in_channels) for x in held):
        return held
    return [layer for layer in held if plan.zeroed[layer.name].all(axis=1).any()]


def _pinned(opened: OpenedModel, axis: Axis) -> bool:
    """Tell whether channels are followed, and all stay."""
    return axis is not None and not _open(opened, axis)


def _open(opened: OpenedModel, axis: Axis) -> bool:
    """Tell whether some channels can go."""
    groups = opened.graph.groups
    return axis is not None and not groups.pinned[groups.members(axis)].all()


def _reason_exact(settings: PruneSettings, plan: Plan, replan: Replan) -> str:
    share = settings.sparsity or 0.0
    if settings.border == "keep":
        more = _count(replan(replace(settings, border="fold"), share)) - _count(plan)
        if more > 0:
            return (
                f"zero padding keeps {more} constant channels, which `border='fold'` removes, "
                "exactly but for the borders"
            )
    what = "no other is unused or constant" if _count(plan) else "none is unused or constant"
    if not share:
        return f"{what}; zero kernels first with `sparsity`"
    return f"{what}; raise `sparsity`, or use `per_layer` or `target`, which change the outputs"


def _least_share(
    settings: PruneSettings, plan: Plan, replan: Replan, shares: Sequence[float]
) -> float | None:
    """Give the first of these shares, above the one asked for, that removes more channels."""
    asked, known = settings.sparsity or 0.0, _count(plan)
    return next((x for x in shares if x > asked and _count(replan(settings, x)) > known), None)


def _count(plan: Plan) -> int:
    return int((~plan.keep).sum())


def warn_of_loss(
    opened: OpenedModel,
    settings: PruneSettings,
    plan: Plan,
    report: PruneReport,
    replan: Replan | None = None,
) -> Iterator[str]:
    """Say that channels went which were used, and how much was lost, or that it is unknown.

    Args:
        opened: the network.
        settings: how it was pruned.
        plan: what was removed.
        report: what was done.
        replan: plans with other settings; None where channels were not chosen by scores.
    """
    if plan.zeroed and settings.mode == "channelprune":
        yield from _warn_of_used(opened, plan)
    worth = report.worth
    if worth is None:
        if not report.unchanged and (report.zeroed[0] or not plan.keep.all()):
            yield unknown_accuracy("`data` shows it; `target` with `data` keeps what can be kept")
        return
    if not (worth.at_chance or worth.collapsed or worth.poor):
        return
    remedy = "remove less, pass more images, or fine-tune (fsurgeon tune --teacher)"
    if replan is not None and _drops_constants(opened, settings, plan, replan):
        remedy = (
            "zeroed kernels leave constants, which `mode='channelprune'` removes here; or remove "
            "less"
        )
    if worth.at_chance and worth.top1 is not None:
        yield f"top-1 {worth.top1[1]:.1%} is no better than a guess; {remedy}"
    elif worth.collapsed and worth.commonest is not None:
        yield f"{worth.commonest[1]:.1%} of the images now get the same class; {remedy}"
    elif worth.fell and worth.score is not None:
        before, after = worth.score
        chance = " (no better than a guess)" if worth.guesses else ""
        yield f"{worth.metric} falls from {before:.1%} to {after:.1%}{chance}; {remedy}"
    elif worth.poor and worth.agreement is None:
        yield "the outputs changed a lot; remove less, pass more images, or fine-tune"
    elif worth.poor:
        yield f"only {worth.agreement:.1%} of the images keep their class; {remedy}"


def _drops_constants(
    opened: OpenedModel, settings: PruneSettings, plan: Plan, replan: Replan
) -> bool:
    """Tell whether the other mode removes what was zeroed, its constants too, and nothing else.

    A depthwise layer whose kernel is zeroed gives the shift of its batch normalisation, which its
    statistics no longer fit. The exact mode hands that constant on.
    """
    if settings.mode != "exact" or not plan.zeroed or settings.sparsity is None:
        return False
    try:
        other = replan(replace(settings, mode="channelprune"), settings.sparsity)
        gone = ~other.keep
        return bool(gone.any() and not (gone & still_used(opened, other.zeroed)).any())
    except GraphError:
        return False


def _warn_of_used(opened: OpenedModel, plan: Plan) -> Iterator[str]:
    gone = ~plan.keep
    if not gone.any():
        return
    try:
        used = int((gone & still_used(opened, plan.zeroed)).sum())
    except GraphError:
        return
    if used:
        yield (
            f"{used} of {int(gone.sum())} removed channels were still used by other layers, as in "
            "a residual stream; `mode='exact'` removes only unused ones"
        )
