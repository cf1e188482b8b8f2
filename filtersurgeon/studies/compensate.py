"""Measure how much accuracy each compensation recovers after pruning, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from filtersurgeon.data.data import DataSpec
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.evaluating import evaluate
from filtersurgeon.learn.evaluation import Estimate, Evaluation, mean_accuracy
from filtersurgeon.learn.jobs import run_jobs
from filtersurgeon.plots.curves import draw_curves
from filtersurgeon.pruning.compensation.compensate import calibrates
from filtersurgeon.ranking.method import methods_of_weights
from filtersurgeon.registry import COMPENSATIONS, STUDIES
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    image_run,
    network_words,
    open_for_worker,
    percentages,
    training_images,
    words,
)
from filtersurgeon.transforms.prune import prune


def compensate(
    lab: Lab,
    *,
    removed: str = "10,20,30,40,50",
    kinds: str = "none,merge,batchnorm,least-squares",
    method: str = "l2",
    train: str = "",
    train_subset: int = 256,
) -> StudyResult:
    """Cut a share of every layer's filters, make up for it in several ways, and evaluate.

    Source: the compensations' own (``docs/methods.md``); that networks are compared right after
    pruning, without training, is as in Thakur, Abrol and Sharma, *Does Geometric Structure in
    Convolutional Filter Space Provide Filter Redundancy Information?*, 2022, Table 1.

    Args:
        lab: the network and the images to evaluate on.
        removed: percentages of each layer's filters.
        kinds: compensations, and ``none``.
        method: which filters go first: a ranking method that uses no images.
        train: images to calibrate with; the training split of ``--data`` if left out.
        train_subset: calibrate with so many of them; 0 takes all.

    Returns:
        Top-1 accuracy for each compensation and percentage, with Wilson's 95 % interval, and the
        parameters left.
    """
    shares = percentages(removed, "removed")
    chosen = words(kinds, ("none", *COMPENSATIONS.names()), "kinds")
    words(method, methods_of_weights(), "method")
    calibration = training_images(lab, train, train_subset)
    cells = [("", 0.0), *((kind, share) for kind in chosen for share in shares)]
    jobs = [
        {
            **network_words(lab),
            "train": calibration if kind and calibrates(kind) else None,
            "kind": kind,
            "sparsity": share,
            "method": method,
        }
        for kind, share in cells
    ]
    found = run_jobs(prune_and_evaluate, jobs, lab.jobs, lab.progress)
    given = {"removed": removed, "kinds": kinds, "method": method, "train_subset": train_subset}
    return _result(given, chosen, shares, dict(zip(cells, found, strict=True)))


def prune_and_evaluate(
    network: Mapping[str, Any],
    test: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    seed: int,
    train: Mapping[str, Any] | None,
    kind: str,
    sparsity: float,
    method: str,
) -> dict[str, Any]:
    """Prune, compensate and evaluate; runs in a worker.

    Returns:
        The evaluation, and the parameters before and after.
    """
    settings = EvaluationSettings(**evaluation)
    parameters: list[int] = []
    with open_for_worker(network) as checkpoint:
        pruned = checkpoint
        if kind:
            images = image_run(train, network, settings)
            pruned = prune(
                checkpoint, sparsity=sparsity, per_layer=True, method=method,
                layers=network["layers"] or None, compensate=kind, data=images, seed=seed,
                verify=False,
                observe=lambda r: parameters.extend([r.before.parameters, r.after.parameters]),
            )  # fmt: skip
        found = evaluate(pruned, DataSpec(**test), settings, preprocess=network["preprocess"])
    return {"evaluation": found.to_dict(), "parameters": parameters}


def _result(
    given: Mapping[str, Any],
    chosen: Sequence[str],
    shares: Sequence[float],
    found: Mapping[tuple[str, float], Mapping[str, Any]],
) -> StudyResult:
    def accuracy(kind: str, share: float) -> Estimate:
        return mean_accuracy([Evaluation.from_dict(found[kind, share]["evaluation"])])

    whole = accuracy("", 0.0)
    curves = {kind: [accuracy(kind, share) for share in shares] for kind in chosen}
    left = []
    for share in shares:
        before, after = found[chosen[0], share]["parameters"]
        left.append(after / before)
    columns = [
        ("top-1 %", "left"),
        ("whole", "right"),
        *((f"{100 * s:g} %", "right") for s in shares),
    ]
    rows = [(kind, str(whole), *map(str, line)) for kind, line in curves.items()]
    rows.append(("parameters left", "100 %", *(f"{100 * part:.1f} %" for part in left)))
    defaults = STUDIES.options("compensate")
    return StudyResult(
        "compensate",
        {k: v for k, v in given.items() if v != defaults[k].default},
        {
            "removed": list(shares),
            "parameters_left": left,
            "baseline": whole._asdict(),
            "accuracy": {k: [point._asdict() for point in line] for k, line in curves.items()},
        },
        [Table("filters cut from every layer, without training", columns, rows)],
        draw=lambda figure: draw_curves(
            figure,
            [0, *(100 * share for share in shares)],
            {kind: [whole, *line] for kind, line in curves.items()},
            "filters cut from every layer (%)",
        ),
    )
