"""Which filters matter, those near archetypes or near the median? Remove each and evaluate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.images import batches, make_loader
from filtersurgeon.errors import OptionError
from filtersurgeon.graph.follow import normalisations
from filtersurgeon.graph.graph import run_trace
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.evaluation import Estimate, Evaluation, mean_accuracy, mean_difference
from filtersurgeon.learn.jobs import job_key, run_jobs
from filtersurgeon.learn.networks import open_network
from filtersurgeon.plots.curves import draw_curves
from filtersurgeon.ranking import Ranking, rank
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._lab import (
    Lab,
    StudyResult,
    Table,
    network_plan,
    open_for_worker,
    percentages,
    words,
)

if TYPE_CHECKING:
    from torch import nn


class Criterion(NamedTuple):
    """Which filters of a layer go first.

    Attributes:
        method: a ranking method.
        best_first: remove those that it ranks highest, instead of lowest.
        normalize: rank filters of unit norm.
    """

    method: str
    best_first: bool = False
    normalize: bool = False


CRITERIA = {
    "near-archetypes": Criterion("archetype", best_first=True),
    "near-median": Criterion("geometric-median"),
    "mixtures": Criterion("archetype"),
    "near-archetypes-unit": Criterion("archetype", best_first=True, normalize=True),
    "mixtures-unit": Criterion("archetype", normalize=True),
    "random": Criterion("random"),
    "smallest-l1": Criterion("l1"),
    "largest-l1": Criterion("l1", best_first=True),
}
DRAWN = ("archetype", "random")


def position(
    lab: Lab,
    *,
    removed: str = "5,10,15,20",
    criteria: str = "near-archetypes,near-median,random,smallest-l1",
    repeats: int = 5,
    archetypes: float = 0.25,
    silent: bool = True,
) -> StudyResult:
    """Remove part of every layer's filters by their position, without retraining, and evaluate.

    A filter is removed by setting its weights and its bias to zero. The number per layer is
    rounded, so that small layers may lose none. Every repeat evaluates on another subset of the
    images (all of them without ``--subset``), draws other random filters, and begins the
    archetypal analysis elsewhere (furthest-sum); criteria are compared on the same images.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, section 7.1 and Table 1.

    Args:
        lab: the network and the images.
        removed: percentages of each layer's filters.
        criteria: which filters go first: ``near-archetypes`` (ranked highest by ``archetype``),
            ``near-median`` (closest to the geometric median), ``mixtures`` (ranked lowest by
            ``archetype``), the same with ``-unit`` (of filters scaled to unit norm, so that length
            plays no part), ``random``, ``smallest-l1``, ``largest-l1``.
        repeats: at least 1; the paper has 10.
        archetypes: their number as a share of a layer's filters.
        silent: zero the scale and shift of a batch normalisation that reads the filter, too, so
            that the channel is silent; without it, the channel becomes a constant.

    Returns:
        Mean accuracy for each criterion and percentage, with the wider of two 95 % intervals:
        Student's over the repeats, and Wilson's for the number of images. Differences between
        ``near-median`` and ``near-archetypes`` are paired by repeat.
    """
    chosen, shares = words(criteria, CRITERIA, "criteria"), percentages(removed, "removed")
    if repeats < 1:
        raise OptionError(f"repeats={repeats} should be at least 1")
    jobs = {
        (name, repeat): _job(lab, name, shares, repeat, archetypes, silent)
        for name in ("", *chosen)
        for repeat in range(repeats)
    }
    # What draws nothing is the same in every repeat, and is done once.
    distinct = {job_key(remove_and_evaluate, job): job for job in jobs.values()}
    found = run_jobs(remove_and_evaluate, list(distinct.values()), lab.jobs, lab.progress)
    results = dict(zip(distinct, found, strict=True))
    named = {k: results[job_key(remove_and_evaluate, job)] for k, job in jobs.items()}
    given = {"removed": removed, "criteria": criteria, "repeats": repeats,
             "archetypes": archetypes, "silent": silent}  # fmt: skip
    return _result(given, chosen, shares, named)


def _job(
    lab: Lab, criterion: str, shares: list[float], repeat: int, archetypes: float, silent: bool
) -> dict[str, Any]:
    network, images = network_plan(lab), lab.images()
    method, _, normalize = CRITERIA[criterion] if criterion else ("", False, False)
    options = {"share": archetypes, "init": "furthest-sum"} if method == "archetype" else {}
    options |= {"normalize": True} if normalize else {}
    seed = lab.seed + repeat
    return {
        **network,
        "images": asdict(replace(images, seed=seed if images.subset else 0)),
        "settings": asdict(lab.evaluation),
        "criterion": criterion,
        "options": options,
        "shares": shares if criterion else [0.0],
        "silent": silent,
        "seed": seed if method in DRAWN else 0,
    }  # fmt: skip


def remove_and_evaluate(
    network: Mapping[str, Any],
    images: Mapping[str, Any],
    settings: Mapping[str, Any],
    criterion: str,
    options: Mapping[str, Any],
    shares: Sequence[float],
    silent: bool,
    seed: int,
) -> dict[str, Any]:
    """Evaluate a network that lacks more and more of its filters; runs in a worker.

    Args:
        network: where it is, what replaces its preprocessing, and which layers are meant.
        images: the fields of a ``DataSpec``.
        settings: the fields of ``EvaluationSettings``.
        criterion: which filters go first; none for the whole network.
        options: of the ranking method.
        shares: how much of each layer to remove, one evaluation each.
        silent: whether removed channels are silent or constant.
        seed: of the ranking.

    Returns:
        For every share, the number of filters removed and the evaluation.
    """
    with open_for_worker(network) as checkpoint:
        ready = open_network(checkpoint, network["preprocess"])
        data = open_data(DataSpec(**images), ready.preprocessing, ready.n_classes)
        ranking = None
        if criterion:
            method = CRITERIA[criterion].method
            ranking = rank(checkpoint, method, layers=network["layers"], options=options, seed=seed)
    example, _ = next(iter(batches(make_loader(data, 1, 0))))
    norms = {}
    if silent:
        norms = normalisations(ready.model, run_trace(ready.model, example.to("meta")))
    whole = {name: tensor.clone() for name, tensor in ready.model.state_dict().items()}
    evaluations, counts = [], []
    for share in shares:
        going = dict(_list_removed(ranking, criterion, share)) if ranking else {}
        ready.model.load_state_dict(whole)
        remove_filters(ready.model.cpu(), going, norms)
        found = evaluate(ready.model, data, ready.n_classes, EvaluationSettings(**settings))
        evaluations.append(found.to_dict())
        counts.append(sum(map(len, going.values())))
    return {"removed": counts, "evaluations": evaluations}


def _list_removed(
    ranking: Ranking, criterion: str, share: float
) -> Iterator[tuple[str, list[int]]]:
    """Yield every layer with the filters that go."""
    for name, layer in ranking.layers.items():
        order = layer.order if CRITERIA[criterion].best_first else layer.order[::-1]
        yield name, order[: round(share * len(order))].tolist()


def _result(
    given: Mapping[str, Any],
    chosen: Sequence[str],
    shares: Sequence[float],
    found: Mapping[tuple[str, int], Mapping[str, Any]],
) -> StudyResult:
    runs = range(int(given["repeats"]))

    def evaluations(name: str, at: int) -> list[Evaluation]:
        return [Evaluation.from_dict(found[name, run]["evaluations"][at]) for run in runs]

    baseline = mean_accuracy(evaluations("", 0))
    curves = {
        name: [mean_accuracy(evaluations(name, at)) for at in range(len(shares))] for name in chosen
    }
    counts = found[chosen[0], 0]["removed"]
    differences = []
    if {"near-median", "near-archetypes"} <= set(chosen):
        differences = [
            mean_difference(evaluations("near-median", at), evaluations("near-archetypes", at))
            for at in range(len(shares))
        ]
    defaults = STUDIES.options("position")
    findings = {
        "removed": list(shares),
        "filters": counts,
        "baseline": baseline._asdict(),
        "accuracy": {name: [point._asdict() for point in line] for name, line in curves.items()},
        "median_minus_archetypes": [point._asdict() for point in differences],
    }
    return StudyResult(
        "position",
        {k: v for k, v in given.items() if v != defaults[k].default},
        findings,
        [_table(shares, counts, baseline, curves)],
        [_verdict(share, point) for share, point in zip(shares, differences, strict=False)],
        lambda figure: draw_curves(
            figure,
            [0, *(100 * share for share in shares)],
            {name: [baseline, *line] for name, line in curves.items()},
            "filters removed from each layer (%)",
        ),
    )


def _table(
    shares: Sequence[float],
    counts: Sequence[int],
    baseline: Estimate,
    curves: Mapping[str, Sequence[Estimate]],
) -> Table:
    headings = [f"{100 * share:g} % ({n})" for share, n in zip(shares, counts, strict=True)]
    columns = [("top-1 %", "left"), ("all filters", "right"), *((h, "right") for h in headings)]
    rows = [(name, str(baseline), *map(str, line)) for name, line in curves.items()]
    return Table("filters removed from each layer", columns, rows)


def _verdict(share: float, point: Estimate) -> str:
    how = "as in the paper" if point.low > 0 else "against the paper" if point.high < 0 else "open"
    return f"{100 * share:g} %: near-median minus near-archetypes {point} points, {how}"


def remove_filters(
    model: nn.Module,
    removed: Mapping[str, Iterable[int]],
    norms: Mapping[str, nn.Module],
) -> None:
    """Zero filters and their biases, in place.

    Args:
        model: the network.
        removed: module name of a convolution -> indices of its filters.
        norms: normalisations whose scale and shift of those channels are zeroed too, so that
            the channels are silent; those left out go on to shift theirs by a constant.
    """
    import torch

    with torch.no_grad():
        for name, filters in removed.items():
            index = torch.tensor(list(filters), dtype=torch.long)
            for module in (model.get_submodule(name), norms.get(name)):
                for parameter in module.parameters(recurse=False) if module else ():
                    parameter[index] = 0
