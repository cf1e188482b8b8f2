"""The ways to prune that ``benchmarks.frontier`` compares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

RANKINGS = ("l1", "l2", "geometric-median", "distance-sum", "archetype", "random")
_GRADIENT_IMAGES = 128  # of Taylor and Hessian, which need labels
_TRIES = 8
_MOST = 0.9  # of a layer; a ranking over all layers may empty some


def ours(checkpoint: Any, share: float, run: Any, **options: Any) -> Any:
    """Prune with the default of this package, or with options that differ from it."""
    import filtersurgeon as fs

    return fs.build(fs.prune(checkpoint, target=f"macs={share}x", data=run, **options)).float()


def uniform(checkpoint: Any, share: float, run: Any) -> Any:
    """Prune every layer by the same share, and refit the layers behind by least squares."""
    return ranking(checkpoint, share, run, method="l2", compensate="least-squares")


def ranking(
    checkpoint: Any, share: float, run: Any, method: str, compensate: str = "batchnorm"
) -> Any:
    """Prune every layer by the same share with a plain ranking, statistics re-estimated."""
    import filtersurgeon as fs

    pruned = fs.prune(
        checkpoint, target=f"macs={share}x", per_layer=True, method=method,
        compensate=compensate, data=run,
    )  # fmt: skip
    return fs.build(pruned).float()


def torch_pruning(checkpoint: Any, share: float, run: Any, importance: str, scope: str = "") -> Any:
    """Prune with Torch-Pruning to a share of the MACs, and re-estimate batch-norm statistics.

    It is used as its README does, the classifier left alone: one pruning ratio for all layers, or
    one ranking over all layers (``scope="global"``) or over those of the same structure
    (``"isomorphic"``). The ratio that leaves the MACs nearest to the share is found by bisection.
    """
    import torch

    from filtersurgeon.learn.measure import count_macs
    from filtersurgeon.learn.networks import classifier, open_network

    torch.manual_seed(0)
    network = open_network(checkpoint, run.preprocess)
    model = network.model.requires_grad_(True)
    size = network.preprocessing.input_size or (3, 224, 224)
    scorer = _importance(importance)
    _prepare(importance, scorer, model, _batches(checkpoint, run))
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole, head = count_macs(model, size), classifier(model)[0]
    low, high = 0.0, 1.0
    best: tuple[float, Any] = (float("inf"), None)
    for _ in range(_TRIES):
        ratio = (low + high) / 2
        # Copied together, so that what the scorer knows of parameters is about the copies.
        narrow, own = deepcopy((model, scorer))
        for name, parameter in narrow.named_parameters():
            parameter.grad = gradients[name].clone() if name in gradients else None
        _step(narrow, own, ratio, head, size, scope)
        left = count_macs(narrow, size) / whole
        best = min(best, (abs(left - share), narrow), key=lambda pair: pair[0])
        low, high = (ratio, high) if left > share else (low, ratio)
    _estimate_statistics(best[1], _batches(checkpoint, run))
    return best[1]


def _importance(name: str) -> Any:
    import torch_pruning

    kinds: dict[str, Callable[[], Any]] = {
        "magnitude-l1": partial(torch_pruning.importance.GroupMagnitudeImportance, p=1),
        "magnitude-l2": partial(torch_pruning.importance.GroupMagnitudeImportance, p=2),
        "bn-scale": torch_pruning.importance.BNScaleImportance,
        "fpgm": torch_pruning.importance.FPGMImportance,
        "lamp": torch_pruning.importance.LAMPImportance,
        "random": torch_pruning.importance.RandomImportance,
        "activation": torch_pruning.importance.ActivationImportance,
        "taylor": torch_pruning.importance.GroupTaylorImportance,
        "hessian": torch_pruning.importance.GroupHessianImportance,
    }
    return kinds[name]()


IMPORTANCES = (
    "magnitude-l1", "magnitude-l2", "bn-scale", "fpgm", "lamp", "random", "activation", "taylor",
    "hessian",
)  # fmt: skip


def _prepare(name: str, scorer: Any, model: Any, batches: Iterator[Any]) -> None:
    """Run the network for the importances that look at images; two of them read labels."""
    import torch
    from torch.nn import functional

    if name == "activation":
        images, _ = next(batches)
        with torch.no_grad(), scorer.compute_importance(model):
            model(images)
    if name not in ("taylor", "hessian"):
        return
    seen = 0
    model.zero_grad()
    for images, labels in batches:
        scores = model(images)
        # Of masks, what the network itself says is the label.
        wanted = labels if scores.ndim == 2 else scores.argmax(1)
        losses = functional.cross_entropy(scores, wanted, reduction="none")
        losses = losses.reshape(len(images), -1).mean(1)
        if name == "taylor":
            losses.sum().backward()
        else:
            for loss in losses:
                model.zero_grad()
                loss.backward(retain_graph=True)
                scorer.accumulate_grad(model)
        seen += len(images)
        if seen >= _GRADIENT_IMAGES:
            return


def _step(
    model: Any, scorer: Any, ratio: float, head: str, size: tuple[int, ...], scope: str
) -> None:
    import torch
    import torch_pruning

    torch_pruning.pruner.BasePruner(
        model,
        torch.randn(1, *size),
        importance=scorer,
        pruning_ratio=ratio,
        global_pruning=bool(scope),
        isomorphic=scope == "isomorphic",
        max_pruning_ratio=_MOST if scope else 1.0,
        ignored_layers=[model.get_submodule(head)],
    ).step()


def _batches(checkpoint: Any, run: Any) -> Iterator[Any]:
    """Read the images to calibrate with."""
    from filtersurgeon.data.data import open_data
    from filtersurgeon.data.images import batches, make_loader
    from filtersurgeon.data.splits import FIT
    from filtersurgeon.learn.networks import open_network

    network = open_network(checkpoint, run.preprocess)
    images = open_data(run.data, network.preprocessing, network.n_classes, use=FIT)
    return batches(make_loader(images, 32))


def _estimate_statistics(model: Any, batches: Iterator[Any]) -> None:
    """Set running means and variances to the average over batches."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    model.eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.reset_running_stats()
            module.momentum = None
            module.train()
    with torch.no_grad():
        for images, _ in batches:
            model(images)
    model.eval()


WAYS: dict[str, Callable[[Any, float, Any], Any]] = {
    "ours": ours,
    "ranking: l2, least squares": uniform,
    **{f"ranking: {name}": partial(ranking, method=name) for name in RANKINGS},
    **{
        f"torch-pruning{scope and f' {scope}'}: {name}": partial(
            torch_pruning, importance=name, scope=scope
        )
        for scope in ("", "global", "isomorphic")
        for name in IMPORTANCES
    },
}

MORE_WAYS: dict[str, Callable[[Any, float, Any], Any]] = {
    "ours: equal shares": partial(ours, allocate="uniform"),
    "ours: l2 selects": partial(ours, select="l2"),
    "ranking: geometric median, least squares": partial(
        ranking, method="geometric-median", compensate="least-squares"
    ),
    "ranking: l2, sequential": partial(ranking, method="l2", compensate="sequential"),
}
