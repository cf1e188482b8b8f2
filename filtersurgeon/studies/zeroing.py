"""How few spatial kernels matter? Zero the least and the most salient ones and evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.evaluation import Estimate, Evaluation, mean_accuracy
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.learn.networks import open_network
from filtersurgeon.plots.curves import draw_curves
from filtersurgeon.ranking.kernel_scores import kernel_scores
from filtersurgeon.ranking.method import takes_images
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    changed_options,
    image_run,
    network_words,
    open_for_worker,
    percentages,
    scoring_options,
    training_images,
    words,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

ORDERS = ("least", "random", "most")
_PAPER = {"orders": "least,most", "train_subset": 60}
PRESETS = {"paper": _PAPER, "paper-50": {**_PAPER, "train_subset": 200}}
"""Appendix I: the saliency of Eq. 4, weights included, on 15 or 50 minibatches of 4 images."""


def zeroing(
    lab: Lab,
    *,
    zeroed: str = "3,10,25,50,75,90,99",
    orders: str = "least,random,most",
    method: str = "saliency",
    gradient: bool = False,
    train: str = "",
    train_subset: int = 256,
    preset: str = "",
) -> StudyResult:
    """Zero more and more spatial kernels of a network, in the order of their scores, and evaluate.

    Kernels of all layers are ordered together. Nothing is trained. ``-p preset=paper`` sets the
    authors' values, with 15 minibatches of 4 for the saliency, and ``preset=paper-50`` with 50;
    their six networks are six runs of this study.
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 4.5.1
    and Appendix I.

    Args:
        lab: the network and the images to evaluate on.
        zeroed: percentages of all spatial kernels.
        orders: ``least`` important kernels first, ``most`` important ones first, ``random``.
        method: how kernels are scored: any ranking method that scores kernels.
        gradient: score by the magnitude of the gradient alone, without the weight; of
            ``saliency``.
        train: images for the saliency; the training split of ``--data`` if left out.
        train_subset: so many of them, in minibatches of 4; 0 takes all.
        preset: ``paper`` or ``paper-50``.

    Returns:
        Top-1 accuracy for each order and percentage, with Wilson's 95 % interval.
    """
    shares = percentages(zeroed, "zeroed")
    chosen = words(orders, ORDERS, "orders")
    scoring = scoring_options(method, gradient)
    images = training_images(lab, train, train_subset)
    jobs = [
        {
            **network_words(lab),
            "train": images if takes_images(_scorer(method, order)) else None,
            "order": order,
            "method": _scorer(method, order),
            "options": {} if order == "random" else scoring,
            "shares": [0.0, *shares],
        }
        for order in chosen
    ]
    results = run_jobs(zero_and_evaluate, jobs, lab.jobs, lab.progress)
    curves = {
        order: [mean_accuracy([Evaluation.from_dict(one)]) for one in result["evaluations"]]
        for order, result in zip(chosen, results, strict=True)
    }
    given = {
        "zeroed": zeroed, "orders": orders, "method": method, "gradient": gradient,
        "train_subset": train_subset, "preset": preset,
    }  # fmt: skip
    return _result(given, shares, results[0]["kernels"], curves)


def _scorer(method: str, order: str) -> str:
    return "random" if order == "random" else method


def zero_and_evaluate(
    network: Mapping[str, Any],
    test: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    seed: int,
    train: Mapping[str, Any] | None,
    order: str,
    method: str,
    options: Mapping[str, Any],
    shares: Sequence[float],
) -> dict[str, Any]:
    """Evaluate a network with more and more of its kernels zeroed; runs in a worker.

    Returns:
        For every share the evaluation, and the number of kernels.
    """
    settings = EvaluationSettings(**evaluation)
    images = image_run(train, network, settings)
    with open_for_worker(network) as checkpoint:
        ready = open_network(checkpoint, network["preprocess"])
        scores = kernel_scores(
            checkpoint, method, data=images, options=options, layers=network["layers"] or None,
            seed=seed,
        ).layers  # fmt: skip
    data = open_data(DataSpec(**test), ready.preprocessing, ready.n_classes)
    sign = -1.0 if order == "most" else 1.0
    ranks = np.argsort(
        np.concatenate([sign * values.ravel() for values in scores.values()]), kind="stable"
    )
    evaluations = []
    for share in shares:
        zero_kernels(ready.model, scores, ranks[: round(share * len(ranks))])
        found = evaluate(ready.model, data, ready.n_classes, replace(settings, confusion=False))
        evaluations.append(found.to_dict())
    return {"evaluations": evaluations, "kernels": len(ranks)}


def zero_kernels(model: nn.Module, scores: Mapping[str, np.ndarray], going: np.ndarray) -> None:
    """Zero spatial kernels in place.

    Args:
        model: the network.
        scores: layer -> one for each kernel, as its weight has them; only names and shapes matter.
        going: numbers of kernels, counted through all layers.
    """
    import torch

    marked = np.zeros(sum(values.size for values in scores.values()), bool)
    marked[going] = True
    start = 0
    for name, values in scores.items():
        mask = marked[start : start + values.size].reshape(values.shape)
        weight: Tensor = model.get_parameter(f"{name}.weight")
        with torch.no_grad():
            weight[torch.from_numpy(mask)] = 0
        start += values.size


def _result(
    given: Mapping[str, Any],
    shares: Sequence[float],
    kernels: int,
    curves: Mapping[str, Sequence[Estimate]],
) -> StudyResult:
    places = [0, *(100 * share for share in shares)]
    columns = [("top-1 %, zeroed", "left"), *((f"{place:g} %", "right") for place in places)]
    rows = [(order, *map(str, line)) for order, line in curves.items()]
    return StudyResult(
        "zeroing",
        changed_options("zeroing", given),
        {
            "kernels": kernels,
            "zeroed": [0.0, *shares],
            "accuracy": {k: [point._asdict() for point in line] for k, line in curves.items()},
        },
        [Table(f"share of {kernels:,} spatial kernels zeroed", columns, rows)],
        draw=lambda figure: draw_curves(figure, places, curves, "spatial kernels zeroed (%)"),
    )
