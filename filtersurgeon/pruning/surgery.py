"""Planning a cut, making it, and proving it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.torch_bridge import from_torch
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import layer_seed
from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.slim import silenced, slim
from filtersurgeon.graph.subject import Subject
from filtersurgeon.graph.verify import EXACT, Proof, verify
from filtersurgeon.pruning.exact import plan_exact, zeroed_weights
from filtersurgeon.pruning.fill_zero import fill_zero
from filtersurgeon.pruning.plan import (
    Plan,
    Standing,
    by_filter,
    plan_channelprune,
    plan_per_layer,
    zero_least,
)
from filtersurgeon.pruning.protection import Protection
from filtersurgeon.pruning.report import PruneReport, make_report
from filtersurgeon.pruning.settings import PruneSettings
from filtersurgeon.pruning.target import reach
from filtersurgeon.ranking.kernel_scores import KernelScores

Compensation = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def make_plan(
    subject: Subject, settings: PruneSettings, judged: KernelScores | Standing
) -> tuple[float, Plan]:
    """Plan a cut, at a given sparsity or at the one that reaches the target.

    Args:
        subject: the network.
        settings: how to prune.
        judged: scores of all spatial kernels, or, to prune per layer, standings of filters.

    Returns:
        The sparsity and the plan.
    """
    groups, layers = subject.graph.groups, subject.layers
    kernels = by_filter(layers, judged.layers) if isinstance(judged, KernelScores) else {}
    bounds = {"min_channels": settings.min_channels, "round_to": settings.round_to}

    def plan_at(sparsity: float) -> Plan:
        if isinstance(judged, KernelScores):
            if settings.mode == "exact":
                zeroed, _ = zero_least(kernels, sparsity, settings.min_channels)
                fold = settings.border == "fold"
                return plan_exact(subject, zeroed, fold_borders=fold, **bounds)
            return plan_channelprune(groups, layers, kernels, sparsity, **bounds)
        return plan_per_layer(groups, layers, judged, sparsity, **bounds)

    if settings.target is not None:
        return reach(settings.target, CostModel(subject.graph), plan_at)
    assert settings.sparsity is not None
    return settings.sparsity, plan_at(settings.sparsity)


def cut(
    subject: Subject,
    plan: Plan,
    settings: PruneSettings,
    entry: HistoryEntry,
    *,
    compensate: Compensation | None = None,
    check: bool = True,
) -> tuple[Checkpoint, Proof | None]:
    """Carry out a plan.

    Args:
        subject: the network.
        plan: what is cut and zeroed.
        settings: how to prune.
        entry: the step for the history.
        compensate: given the tensors that change, in their wide shapes, gives them back with those
            that make up for the cut.
        check: whether to compare outputs.

    Returns:
        The narrow checkpoint, and how its outputs compare with those of the wide network, the
        channels that went silent there; None without a check.

    Raises:
        GraphError: the narrow network would not do what is promised.
    """
    zeroed = {} if settings.fill == "restore" else zeroed_weights(subject, plan.zeroed)
    changed: Mapping[str, Tensor] = {**zeroed, **plan.shifts}
    if compensate is not None:
        changed = compensate(changed)
    # Noise in the place of zeros would lie under masks.
    narrow = slim(subject, plan.left, entry, changed, keep_parts=settings.fill != "fillzero")
    proof = None
    if check and settings.mode == "exact":
        allowed = EXACT if settings.border == "keep" else np.inf
        proof = verify(subject, zeroed, narrow, settings.seed, allowed)
    elif check:
        proof = verify(subject, silenced(subject, plan.left, changed), narrow, settings.seed)
    if settings.fill == "fillzero":
        narrow = _filled(narrow, subject, plan, settings.seed)
    return narrow, proof


def describe(
    protection: Protection, plan: Plan, sparsity: float, narrow: Checkpoint, proof: Proof | None
) -> PruneReport:
    """Report a cut, with remarks where less was done than one might expect."""
    subject = protection.subject
    report = make_report(subject.graph, subject.layers, plan, sparsity)
    parts = _about_parts(subject, narrow)
    notes = (*protection.notes(), *_notes(report, subject, proof), *parts)
    return replace(report, difference=None if proof is None else proof.difference, notes=notes)


def _notes(report: PruneReport, subject: Subject, proof: Proof | None) -> list[str]:
    notes = []
    if proof is not None and proof.blind:
        notes.append(
            "the outputs no longer depend on the image: too much was zeroed where it matters; "
            "score kernels by saliency (--data), lower --sparsity, or train the network again"
        )
    if report.rescued:
        notes.append(
            f"{len(report.rescued)} layers would have been emptied and keep their best channels: "
            + ", ".join(report.rescued[:3])
            + (" ..." if len(report.rescued) > 3 else "")
        )
    if subject.folded and report.after.parameters < report.before.parameters:
        notes.append(
            "convolutions that standardise their weights became ordinary ones where they were cut"
        )
    return notes


def _about_parts(subject: Subject, narrow: Checkpoint) -> list[str]:
    """Say which weights are no longer stored in parts."""
    before = len(subject.checkpoint.structure)
    names = [x["module"] for x in narrow.structure[before:] if x.get("edit") == "plain-weight"]
    if not names:
        return []
    listed = ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return [f"weights stored in parts became ordinary ones in {listed}"]


def _filled(checkpoint: Checkpoint, subject: Subject, plan: Plan, seed: int) -> Checkpoint:
    """Fill the zeroed kernels that are left of a narrow checkpoint."""
    filled, settings = dict(checkpoint.tensors), subject.graph.settings(plan.left)
    for layer in subject.layers:
        if layer.name not in plan.zeroed:
            continue
        if layer.tensor not in checkpoint:
            raise LayerError(
                f"layer {layer.name} stores its weight in parts, which noise would not fit; "
                "use --fill zero or restore"
            )
        weight = checkpoint[layer.tensor].torch()
        groups = settings.get(layer.name, {}).get("groups", layer.groups)
        kernels = layer.filters_first(weight.float().numpy(), groups)
        values = fill_zero(kernels, np.random.default_rng(layer_seed(layer.name, seed)))
        stored = torch.from_numpy(layer.as_stored(values, groups).copy()).to(weight.dtype)
        filled[layer.tensor] = from_torch(stored, layer.tensor)
    return replace(checkpoint, tensors=filled)
