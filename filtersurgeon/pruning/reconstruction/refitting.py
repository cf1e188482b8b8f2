"""Layers refitted from front to back in a network whose other weights have changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from filtersurgeon.pruning.compensation.statistics import Statistics, Sums, match_statistics
from filtersurgeon.pruning.reconstruction.calibration import Bench, groups_alive
from filtersurgeon.pruning.reconstruction.edits import put_fit
from filtersurgeon.pruning.reconstruction.fitting import fit
from filtersurgeon.pruning.reconstruction.rows import parts_of
from filtersurgeon.pruning.reconstruction.sequential import TwoRuns
from filtersurgeon.pruning.reconstruction.targets import SHARE


@torch.no_grad()
def refit_front_to_back(
    bench: Bench,
    start: Mapping[str, Tensor],
    layers: Collection[str],
    importance: Mapping[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    """Refit layers, and match the statistics of batch normalisation, in the order of the run.

    Each layer is fitted to what the changed network gives it by then; its target is what it made
    in the original network, and what the residual stream lacks. A normalisation behind a refitted
    layer keeps its statistics, as the layer makes again what it made.

    Args:
        bench: the original network.
        start: tensors that have other values, in their original shapes.
        layers: reading layers to refit.
        importance: layer -> ``(outputs,)``, how much its outputs matter.
        seed: of the positions.

    Returns:
        The tensors of the refitted layers and the statistics, in float32.
    """
    program = bench.program
    tensors = {**bench.tensors, **{n: t.to(bench.device, copy=True) for n, t in start.items()}}
    run, keep, changed = TwoRuns(bench, SHARE), groups_alive(bench), set[str]()
    readers = {bench.survey.readers[name].step: name for name in layers}
    touched = program.touched_by(start)
    placed = {bench.places.place(name)[0] for name in layers if name in bench.places}
    for number in list(program.order):
        if number in readers:
            changed |= _refit(bench, run, readers[number], tensors, keep, importance, seed)
        elif number in touched and "batch_norm" in program.steps[number].name:
            changed |= _restate(bench, run, number, tensors, placed)
    return {name: tensors[name] for name in changed}


def _refit(
    bench: Bench,
    run: TwoRuns,
    layer: str,
    tensors: dict[str, Tensor],
    keep: object,
    importance: Mapping[str, Tensor],
    seed: int,
) -> set[str]:
    reader, weight = bench.survey.readers[layer], bench.weight(layer)
    fits = []
    for part, sums in zip(
        parts_of(reader, weight), run.collect(reader, tensors, seed), strict=True
    ):
        columns = part.kept(keep).to(bench.device)  # type: ignore[arg-type]
        found = fit(
            sums, columns, part.map_of(weight), importance[layer][part.outputs],
            constant=layer in bench.places,
        )  # fmt: skip
        fits.append((part, columns, found.weight.float(), found.constant.float()))
    return put_fit(bench, tensors, layer, fits)


def _restate(
    bench: Bench, run: TwoRuns, number: int, tensors: dict[str, Tensor], placed: set[str]
) -> set[str]:
    """Give a normalisation statistics with which it makes what it made, on average."""
    step = bench.program.steps[number]
    mean, variance = (bench.program.tensor_of(step.args[at]) for at in (3, 4))
    if mean is None or variance is None or mean in placed:
        return set()
    source, place = step.args[0].step, bench.program.place[number]
    eps = next(each for each in reversed(step.args) if type(each) is float)
    before, now = Sums(), Sums()
    for batch, original, values in zip(
        bench.batches, run.original.advance(place, bench.tensors), run.cut.advance(place, tensors),
        strict=True,
    ):  # fmt: skip
        for sums, seen in ((before, original), (now, values)):
            rows = seen[source][: batch.count]
            sums.add(Statistics.of(rows), rows.numel() // rows.shape[1])
    running = Statistics(bench.tensors[mean].double(), bench.tensors[variance].double())
    found = match_statistics(running, before.total(), now.total(), eps)
    tensors[mean], tensors[variance] = found.mean.float(), found.variance.float()
    return {mean, variance}
