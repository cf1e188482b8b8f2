"""Make a plan, prune by it, check the result, and report it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.filters import layer_seed
from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.slim import slim, zero_removed
from filtersurgeon.graph.verify import EXACT, Proof, verify
from filtersurgeon.pruning.exact import plan_exact, zeroed_weights
from filtersurgeon.pruning.fill_zero import fill_zero
from filtersurgeon.pruning.plan import (
    ChannelScores,
    PercentileRanks,
    Plan,
    by_filter,
    mean_ranks,
    plan_channelprune,
    plan_per_layer,
    zero_least,
)
from filtersurgeon.pruning.protection import Protection
from filtersurgeon.pruning.remarks import compared_with, remarks, warn_of_loss, why_little
from filtersurgeon.pruning.report import PruneReport, make_report
from filtersurgeon.pruning.scoring import ratios_by_layer
from filtersurgeon.pruning.settings import PruneSettings
from filtersurgeon.pruning.target import reach
from filtersurgeon.pruning.worth import Worth
from filtersurgeon.ranking.kernel_scores import KernelScores

Compensation = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def make_plan(
    opened: OpenedModel,
    settings: PruneSettings,
    scored: KernelScores | PercentileRanks | ChannelScores,
) -> tuple[float, Plan]:
    """Plan a cut, at a given sparsity or at the one that reaches the target.

    Args:
        opened: the network.
        settings: how to prune.
        scored: scores of all spatial kernels, or, to prune per layer, percentile ranks of filters
            or scores of channels.

    Returns:
        The sparsity and the plan.
    """
    plan_at = planner(opened, settings, scored)
    if settings.target is not None:
        return reach(settings.target, CostModel(opened.graph), plan_at)
    sparsity = settings.sparsity or 0.0
    return sparsity, plan_at(sparsity)


def planner(
    opened: OpenedModel,
    settings: PruneSettings,
    scored: KernelScores | PercentileRanks | ChannelScores,
) -> Callable[[float], Plan]:
    """Give the function that plans a cut at any sparsity; as :func:`make_plan`."""
    groups, layers = opened.graph.groups, opened.makers
    kernels = by_filter(layers, scored.layers) if isinstance(scored, KernelScores) else {}
    bounds = {"min_channels": settings.min_channels, "round_to": settings.round_to or 1}

    def plan_at(sparsity: float) -> Plan:
        if isinstance(scored, KernelScores):
            if settings.mode == "exact":
                zeroed, _ = zero_least(kernels, sparsity, settings.min_channels)
                fold = settings.border == "fold"
                return plan_exact(opened, zeroed, fold_borders=fold, **bounds)
            return plan_channelprune(groups, layers, kernels, sparsity, **bounds)
        return plan_per_layer(groups, layers, worth, sparsity, ratios=ratios, **bounds)

    if isinstance(scored, ChannelScores):
        worth = scored
    elif not isinstance(scored, KernelScores):
        worth = mean_ranks(groups, layers, scored)
    ratios = ratios_by_layer(layers, settings.ratios)
    return plan_at


def cut(
    opened: OpenedModel,
    plan: Plan,
    settings: PruneSettings,
    entry: HistoryEntry,
    *,
    compensate: Compensation | None = None,
    check: bool = True,
) -> tuple[Checkpoint, Proof | None]:
    """Carry out a plan.

    Args:
        opened: the network.
        plan: what is cut and zeroed.
        settings: how to prune.
        entry: the step for the history.
        compensate: given the tensors that change, in their original shapes, gives them back with
            those that make up for the cut.
        check: whether to compare outputs.

    Returns:
        The pruned checkpoint, and how its outputs compare with those of the original network, the
        channels that went silent there; None without a check.

    Raises:
        GraphError: the pruned network would not do what is promised.
    """
    zeroed = {} if settings.fill == "restore" else zeroed_weights(opened, plan.zeroed)
    changed: Mapping[str, Tensor] = {**zeroed, **plan.shifts}
    if compensate is not None:
        changed = compensate(changed)
    # Noise in the place of zeros would lie under masks.
    pruned = slim(opened, plan.keep, entry, changed, keep_parts=settings.fill != "fillzero")
    proof = None
    if check and settings.mode == "exact":
        allowed = EXACT if settings.border == "keep" else np.inf
        proof = verify(opened, zeroed, pruned, settings.seed, allowed)
    elif check:
        proof = verify(opened, zero_removed(opened, plan.keep, changed), pruned, settings.seed)
    if settings.fill == "fillzero":
        pruned = _fill(pruned, opened, plan, settings.seed)
    return pruned, proof


def describe(
    protection: Protection,
    plan: Plan,
    sparsity: float,
    pruned: Checkpoint,
    proof: Proof | None,
    worth: Worth | None = None,
    *,
    settings: PruneSettings,
    scored: KernelScores | PercentileRanks | ChannelScores | None = None,
) -> PruneReport:
    """Report a cut, with remarks where less was done than one might expect, or more was lost.

    Args:
        protection: the network.
        plan: what was cut.
        sparsity: the share that was asked for, or found.
        pruned: the result.
        proof: how its outputs compare.
        worth: how they compare on images.
        settings: how it was pruned.
        scored: by what; None where the widths were chosen otherwise.
    """
    opened = protection.opened
    report = make_report(opened, plan, sparsity)
    notes = [*protection.notes(), *remarks(report, opened, proof, settings.min_channels)]
    notes += _about_parts(opened, pruned)
    again = None
    if scored is not None:
        own = scored

        def replan(other: PruneSettings, share: float) -> Plan:
            return planner(opened, other, own)(share)

        again = replan
        notes += filter(None, [why_little(opened, settings, report, plan, replan)])
    report = replace(
        report,
        difference=None if proof is None else proof.difference,
        compared=compared_with(settings, report),
        notes=tuple(notes),
        worth=worth,
        fill=settings.fill,
    )
    return replace(report, warnings=tuple(warn_of_loss(opened, settings, plan, report, again)))


def _about_parts(opened: OpenedModel, pruned: Checkpoint) -> list[str]:
    """Say which weights are no longer stored in parts."""
    before = len(opened.checkpoint.structure)
    names = [x["module"] for x in pruned.structure[before:] if x.get("edit") == "plain-weight"]
    if not names:
        return []
    listed = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return [f"weights stored in parts became ordinary ones in {listed}"]


def _fill(checkpoint: Checkpoint, opened: OpenedModel, plan: Plan, seed: int) -> Checkpoint:
    """Fill the zeroed kernels that are kept of a pruned checkpoint."""
    filled, settings = dict(checkpoint.tensors), opened.graph.settings(plan.keep)
    for layer in opened.layers:
        # A weight that is still stored in parts has lost nothing.
        if layer.name not in plan.zeroed or layer.tensor not in checkpoint:
            continue
        weight = checkpoint[layer.tensor].torch()
        groups = settings.get(layer.name, {}).get("groups", layer.groups)
        kernels = layer.filters_first(weight.float().numpy(), groups)
        values = fill_zero(kernels, np.random.default_rng(layer_seed(layer.name, seed)))
        stored = torch.from_numpy(layer.as_stored(values, groups).copy()).to(weight.dtype)
        filled[layer.tensor] = from_torch(stored, layer.tensor)
    return replace(checkpoint, tensors=filled)
