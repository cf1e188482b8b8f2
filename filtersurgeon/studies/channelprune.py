"""Measure how much of a network is removed when most spatial kernels are zeroed."""

from __future__ import annotations

from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.data.data import ImageRun
from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.opened_model import OpenedModel, open_model
from filtersurgeon.networks.skeleton import skeleton
from filtersurgeon.pruning.plan import by_filter, plan_channelprune
from filtersurgeon.ranking.kernel_scores import KernelScores, kernel_scores
from filtersurgeon.ranking.method import takes_images
from filtersurgeon.ranking.methods.saliency import saliency_of_noise
from filtersurgeon.ranking.saliency import SaliencySettings
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    changed_options,
    percentages,
    scoring_options,
    words,
)

PAPER = {
    "densenet121": {0.8: 0.58, 0.9: 0.74},
    "resnet50": {0.9: 0.52, 0.99: 0.79, 0.999: 0.86},
}
"""Table M.1: network -> share of spatial kernels zeroed -> share of parameters pruned."""

_PAPER = {"gradient": True, "noise": 60, "side": 320, "classes": 5}
PRESETS = {"paper": _PAPER, "paper-50": {**_PAPER, "noise": 200}}
"""Section 3.3 and Appendices A and M: |gradient| of 15 or 50 minibatches of 4 images of 320x320,
five outputs. The images are noise, and the weights untrained, unless others are given."""


def channelprune(
    lab: Lab,
    *,
    zeroed: str = "80,90,99,99.9",
    networks: str = "resnet50,densenet121",
    method: str = "saliency",
    gradient: bool = False,
    noise: int = 8,
    side: int = 64,
    classes: int = 1000,
    seeds: int = 3,
    preset: str = "",
) -> StudyResult:
    """Count what ChannelPrune leaves of networks, beside Table M.1 of the paper.

    The paper's networks were trained on ImageNet; named networks are torchvision's, as they are
    initialised, once per seed, for counting needs no download. Given a network of one's own
    (INPUT), that one is counted instead, with its weights. Kernels are scored as in the paper, by
    their saliency (Eq. 4), on ``--data`` or else on images of noise with random labels. Nothing is
    evaluated. ``-p preset=paper`` sets the authors' values, with 15 minibatches of 4 images for the
    saliency, and ``preset=paper-50`` with 50.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.3 and
    Table M.1.

    Args:
        lab: the network, if any, and the images for ``saliency``, if any.
        zeroed: percentages of all spatial kernels.
        networks: torchvision's, counted where no network is given.
        method: how kernels are scored: any ranking method that scores kernels.
        gradient: score by the magnitude of the gradient alone, without the weight; of
            ``saliency``.
        noise: number of noise images for ``saliency`` without ``--data``.
        side: their height and width, where the network states no input size.
        classes: outputs of torchvision's networks; the paper has 5.
        seeds: of the initialisation and the noise, so many one after the other, or of ``random``.
        preset: ``paper`` or ``paper-50``.

    Returns:
        Per network the share of parameters pruned, mean over the seeds, and how many layers would
        have been emptied.
    """
    shares = percentages(zeroed, "zeroed")
    scoring_options(method, gradient)
    own = lab.checkpoint is not None
    names = [lab.checkpoint.name] if own else words(networks, PAPER, "networks")
    runs = range(lab.seed, lab.seed + (1 if own and method != "random" else max(1, seeds)))
    rows: list[dict[str, Any]] = []
    for done, name in enumerate(names):
        counted = []
        for seed in runs:
            opened = open_model(lab.checkpoint or _fresh(name, seed, classes))
            scores = score_kernels(lab, opened.checkpoint, method, (noise, side), seed, gradient)
            counted.append(_counts(opened, scores, shares))
        rows += [
            {
                "network": name,
                "zeroed": share,
                "pruned": sum(c[share][0] for c in counted) / len(counted),
                "rescued": max(c[share][1] for c in counted),
                "paper": PAPER.get(name, {}).get(round(share, 6)),
            }
            for share in shares
        ]
        if lab.progress:
            lab.progress(done + 1, len(names))
    given = {
        "zeroed": zeroed, "networks": networks, "method": method, "gradient": gradient,
        "noise": noise, "side": side, "classes": classes, "seeds": seeds, "preset": preset,
    }  # fmt: skip
    remarks = (
        [] if own else ["weights are as torchvision initialises them, not the paper's trained ones"]
    )
    if method == "saliency" and lab.data is None:
        score = "|gradient|" if gradient else "Eq. 4"
        remarks.append(f"kernels are scored by {score} on {noise} images of noise")
    return StudyResult(
        "channelprune",
        changed_options("channelprune", given),
        {"rows": rows},
        [_table(rows)],
        remarks,
    )


def _fresh(name: str, seed: int, classes: int) -> Checkpoint:
    """Make a network of torchvision's as it is initialised."""
    import torch

    architecture = f"torchvision:{name}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = skeleton(architecture, num_classes=classes, on_meta=False).state_dict()
    tensors = {key: from_torch(tensor, key) for key, tensor in state.items()}
    return Checkpoint(tensors, architecture, architecture=architecture)


def score_kernels(
    lab: Lab,
    checkpoint: Checkpoint,
    method: str,
    noise: tuple[int, int],
    seed: int,
    gradient: bool = False,
) -> KernelScores:
    """Score the kernels of a network, by saliency on noise where the lab has no images.

    Args:
        lab: the images, if any, and how to evaluate.
        checkpoint: the network.
        method: a ranking method that scores kernels.
        noise: number of noise images, and their side where the network states no input size.
        seed: of the noise, or of what the method draws.
        gradient: score by the magnitude of the gradient alone; of ``saliency``.
    """
    evaluation = lab.evaluation
    if method == "saliency" and lab.data is None:
        settings = SaliencySettings(gradient=gradient, device=evaluation.device)
        return saliency_of_noise(checkpoint, *noise, settings, layers=lab.layers, seed=seed)
    images = None
    if takes_images(method):
        assert lab.data is not None
        images = ImageRun(lab.data, lab.preprocess, evaluation.workers, evaluation.device, lab.tell)
    options = scoring_options(method, gradient)
    return kernel_scores(
        checkpoint, method, data=images, options=options, layers=lab.layers, seed=seed
    )


def _counts(
    opened: OpenedModel, scores: KernelScores, shares: list[float]
) -> dict[float, tuple[float, int]]:
    """Give, by the share zeroed, the share of parameters pruned and the layers rescued."""
    model, layers = CostModel(opened.graph), opened.layers
    kernels = by_filter(layers, scores.layers)
    found = {}
    for share in shares:
        plan = plan_channelprune(opened.graph.groups, layers, kernels, share)
        before, after = model.cost(plan.keep | True), model.cost(plan.keep)
        found[share] = (1 - after.parameters / before.parameters, len(plan.rescued))
    return found


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = [("network", "left"), *((name, "right") for name in
               ("zeroed", "parameters pruned", "the paper's", "layers rescued"))]  # fmt: skip
    cells = [
        (
            row["network"],
            f"{100 * row['zeroed']:g} %",
            f"{row['pruned']:.3f}",
            "" if row["paper"] is None else f"{row['paper']:.2f}",
            row["rescued"],
        )
        for row in rows
    ]
    return Table("spatial kernels zeroed, and parameters pruned", columns, cells)
