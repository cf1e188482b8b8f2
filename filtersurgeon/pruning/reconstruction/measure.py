"""What it costs to cut each bundle: the order of its channels, and the loss that was measured.

For every bundle by itself: the layers that read it are fitted, the order of removal found
(``fitting.removal_order``), and two cuts are carried out on the whole network, whose outputs on
held-out images tell the loss. A power law of the predicted error goes through both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.graph.program import Values
from filtersurgeon.networks.devices import copy_number, give_back_memory
from filtersurgeon.pruning.reconstruction.calibration import (
    Bench,
    divergence,
    each_batch,
    groups_alive,
)
from filtersurgeon.pruning.reconstruction.edits import Fits, put_fit, silence
from filtersurgeon.pruning.reconstruction.fitting import (
    Columns,
    RowSums,
    fit,
    invert,
    removal_order,
)
from filtersurgeon.pruning.reconstruction.importance import TEMPERATURE, affordable, fisher
from filtersurgeon.pruning.reconstruction.layers import Candidate
from filtersurgeon.pruning.reconstruction.rows import Part, parts_of
from filtersurgeon.pruning.reconstruction.targets import LARGEST, collect

LEVELS = (0.3, 0.6)
FLOOR = 0.1

_LEAST_LOSS = 2e-5
_EXPONENTS = (0.4, 2.5)
_MOMENT_BYTES = 600 << 20
_MANY = 4
_LOSS_MACS = 2e12
"""What measuring all losses may cost; large networks are shown fewer held-out images."""


@dataclass
class Curve:
    """What cuts of one bundle cost.

    Attributes:
        candidate: the bundle.
        order: its groups, first to go first; fewer than all, as some always stay.
        errors: predicted weighted error after each removal.
        measured: pairs of groups removed and loss.
        coupled: whether what is left of the bundle changes as a part of it goes, as by a
            normalisation over channels.
    """

    candidate: Candidate
    order: NDArray[np.int64]
    errors: NDArray[np.float64]
    measured: list[tuple[int, float]] = field(default_factory=list)
    coupled: bool = False

    def losses(self) -> NDArray[np.float64]:
        """Give the loss of removing 0, 1, 2, ... groups, ``(len(order) + 1,)``.

        A power of the predicted error that goes through what was measured.
        """
        errors = np.concatenate([[0.0], np.maximum.accumulate(np.maximum(self.errors, 0))])
        partial = [(size, loss) for size, loss in self.measured if size < self.candidate.width]
        if not partial:
            return errors
        (few, low), (many, high) = partial[0], partial[-1]
        low = max(low, _LEAST_LOSS)
        first, second = max(errors[few], 1e-30), max(errors[many], 1e-30)
        if many == few or second <= first:
            return low * errors / first
        high = max(high, 1.05 * low, 2 * _LEAST_LOSS)
        exponent = np.clip(np.log(high / low) / np.log(second / first), *_EXPONENTS)
        found: NDArray[np.float64] = low * (errors / first) ** exponent
        if self.whole is not None:
            found[-1] = max(self.whole, _LEAST_LOSS)
        return found

    @property
    def whole(self) -> float | None:
        """The loss of removing all groups, where that was measured."""
        return dict(self.measured).get(self.candidate.width)

    @property
    def floor(self) -> int:
        """How many groups stay at least where not all go."""
        return floor_of(self.candidate.width)


def floor_of(width: int) -> int:
    """Give how many groups of a bundle stay at least where not all go."""
    return max(1, int(np.ceil(FLOOR * width)))


@dataclass
class Statistics:
    """What was measured of a network.

    Attributes:
        importance: layer -> ``(outputs,)``, how much its outputs matter.
        curves: one per candidate, in their order.
    """

    importance: dict[str, Tensor]
    curves: list[Curve]


def measure(
    bench: Bench,
    seed: int,
    *,
    selection: Mapping[str, Sequence[int]] | None = None,
    losses: bool = True,
    branches: bool = False,
    before: Statistics | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Find the order and the cost of every cut.

    Args:
        bench: the network.
        seed: of what is drawn.
        selection: name of a candidate -> its groups, first to go first, where another ranking
            chooses them.
        losses: measure the losses too; else only the predicted errors are known.
        branches: take the order of branches to their end, and measure their loss as a whole.
        before: of the same network and images with fewer candidates; what it says stands.
        tell: told how many steps of how many are done.
    """
    if before is not None and bench.survey.readers.keys() <= before.importance.keys():
        importance = before.importance
    else:
        importance = fisher(bench, seed)
    curves = [] if before is None else _still_true(bench, before)
    known = {curve.candidate.name for curve in curves}
    wanted = [c for c in bench.survey.candidates if c.name not in known]
    found: list[Curve] = []
    cut = {name for candidate in bench.survey.candidates for name in candidate.readers}
    behind = [name for name in bench.survey.readers if name not in cut]
    for candidates in _in_memory(bench, wanted):
        layers = list(dict.fromkeys(name for c in candidates for name in c.readers))
        sums = collect(bench, layers, seed, behind)
        behind = []
        give_back_memory()
        fits: Fits | None = {} if losses else None
        some = _curves(bench, candidates, sums, importance, selection or {}, fits, branches)
        del sums
        give_back_memory()
        if tell:
            tell(2 * len(found) + len(some), 2 * len(wanted))
        if fits is not None:
            _measure_losses(bench, some, fits)
        found += some
        if tell:
            tell(2 * len(found), 2 * len(wanted))
    _find_coupled(bench, found)
    order = {c.name: n for n, c in enumerate(bench.survey.candidates)}
    curves = sorted(curves + found, key=lambda curve: order[curve.candidate.name])
    return Statistics(importance, curves)


def _still_true(bench: Bench, before: Statistics) -> list[Curve]:
    """Take the curves of candidates that are as they were."""
    now = {c.name: c for c in bench.survey.candidates}
    return [
        replace(curve, candidate=now[curve.candidate.name])
        for curve in before.curves
        if curve.candidate.name in now and _same(curve.candidate, now[curve.candidate.name])
    ]


def _same(one: Candidate, other: Candidate) -> bool:
    return one.readers == other.readers and np.array_equal(one.bundle.groups, other.bundle.groups)


def _in_memory(bench: Bench, candidates: Sequence[Candidate]) -> Iterator[list[Candidate]]:
    """Split candidates so that the moments of their readers fit into memory together.

    Candidates that share a reader stay together.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    for candidate in candidates:
        for reader in candidate.readers:
            parent[root(reader)] = root(candidate.readers[0])
    together: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        together.setdefault(root(candidate.readers[0]), []).append(candidate)
    found: list[Candidate] = []
    used = 0
    for some in together.values():
        names = dict.fromkeys(name for c in some for name in c.readers)
        need = sum(_moment_bytes(bench, name) for name in names)
        if found and used + need > _MOMENT_BYTES:
            yield found
            found, used = [], 0
        found, used = found + some, used + need
    if found:
        yield found


def _moment_bytes(bench: Bench, layer: str) -> int:
    own = bench.survey.readers[layer].layer
    filters = own.filters_first(bench.weight(layer))
    inputs = filters[0].numel()
    squares = 0 if inputs > LARGEST else inputs * own.groups
    return 8 * inputs * (squares + len(filters))


def stiffness(inputs: int, images: int) -> float:
    """Give the ridge by which the order of removal is found."""
    return float(np.clip(2e-3 * inputs / images, 1e-3, 1e-2))


def columns_of(
    part: Part,
    candidate: Candidate,
    sums: RowSums,
    weight: Tensor,
    importance: Tensor,
    images: int,
    known: dict[int, tuple[Tensor, Tensor]],
) -> Columns | None:
    """Give a part of a reading layer as the order of removal of one bundle sees it."""
    columns = part.columns(candidate.bundle.groups).to(weight.device)
    if not columns.numel():
        return None
    prior = part.map_of(weight)
    root = importance[part.outputs].sqrt()[:, None]
    flat = columns.ravel()
    if not sums.has_moments:
        # Too many inputs for their moments: each stands for itself.
        variance, own = sums.variances()[flat], root.to(prior) * prior[:, flat]
        scores = own.square().sum(0).double() * variance
        total = scores.reshape(columns.shape).sum(1)
        return Columns(
            torch.eye(len(total), dtype=total.dtype, device=total.device), total.sqrt()[None], 1
        )
    if id(sums) not in known:
        known[id(sums)] = invert(sums, prior, stiffness(prior.shape[1], images))
    inverse, fitted = known[id(sums)]
    in_order = (flat == torch.arange(len(flat), device=flat.device)).all()
    whole = columns.numel() == len(inverse) and in_order.tolist()
    block = inverse.clone() if whole else inverse[flat][:, flat]
    return Columns(block, root.to(fitted) * fitted[:, flat], columns.shape[1])


def _curves(
    bench: Bench,
    candidates: Sequence[Candidate],
    sums: Mapping[str, list[RowSums]],
    importance: Mapping[str, Tensor],
    selection: Mapping[str, Sequence[int]],
    fits: Fits | None,
    branches: bool,
) -> list[Curve]:
    """Find the order of every bundle; fit its readers for the cuts to measure, if wanted."""
    images = sum(batch.count for _, batch in each_batch(bench, held=False))
    known: dict[int, tuple[Tensor, Tensor]] = {}
    later = Counter(name for candidate in candidates for name in candidate.readers)
    found = []
    for candidate in candidates:
        readers = []
        for name in candidate.readers:
            weight = bench.weight(name)
            for part, own in zip(
                parts_of(bench.survey.readers[name], weight), sums[name], strict=True
            ):
                columns = columns_of(part, candidate, own, weight, importance[name], images, known)
                if columns is not None:
                    readers.append(columns)
        least = 0 if branches and candidate.branch else floor_of(candidate.width)
        chosen = selection.get(candidate.name)
        if chosen is None:
            order, errors = removal_order(readers, candidate.width, least)
            groups = candidate.bundle.groups[order]
        else:
            groups = np.asarray(chosen[: candidate.width - least], np.int64)
            errors = _errors_of(readers, candidate, groups)
        curve = Curve(candidate, groups, np.array(errors))
        found.append(curve)
        if fits is not None:
            for level, number in _levels(curve):
                fits[candidate.name, level] = _refits(bench, curve, number, sums, importance, known)
        for name in candidate.readers:
            later[name] -= 1
            if not later[name]:
                for own in sums[name]:
                    known.pop(id(own), None)
    return found


def _errors_of(
    readers: Sequence[Columns], candidate: Candidate, order: NDArray[np.int64]
) -> list[float]:
    """Predict the error of removing groups in a given order."""
    from filtersurgeon.pruning.reconstruction.fitting import _remove

    place = {group: at for at, group in enumerate(candidate.bundle.groups.tolist())}
    alive, total, found = list(range(candidate.width)), 0.0, []
    for group in order.tolist():
        at = alive.index(place[group])
        total += sum(
            copy_number(_remove(r, torch.tensor([at], device=r.inverse.device), len(alive)))
            for r in readers
        )
        alive.pop(at)
        found.append(total)
    return found


def _levels(curve: Curve) -> list[tuple[int, int]]:
    """Give the cuts that are carried out: their number, and how many groups go."""
    width = curve.candidate.width
    most = min(len(curve.order), width - curve.floor)
    numbers = [min(max(1, int(level * width)), most) for level in LEVELS]
    if len(curve.order) == width:
        numbers.append(width)
    return list(enumerate(dict.fromkeys(number for number in numbers if number)))


def _refits(
    bench: Bench,
    curve: Curve,
    number: int,
    sums: Mapping[str, list[RowSums]],
    importance: Mapping[str, Tensor],
    known: Mapping[int, tuple[Tensor, Tensor]],
) -> dict[str, list[tuple[Part, Tensor, Tensor, Tensor]]]:
    """Fit every reader of a bundle to what is left of it."""
    many = len(curve.candidate.readers) > _MANY
    alive = groups_alive(bench)
    alive[curve.order[:number]] = False
    found: dict[str, list[tuple[Part, Tensor, Tensor, Tensor]]] = {}
    for name in curve.candidate.readers:
        weight = bench.weight(name)
        parts = []
        for part, own in zip(parts_of(bench.survey.readers[name], weight), sums[name], strict=True):
            columns = part.kept(alive).to(weight.device)
            if many and id(own) in known and name in bench.places:
                parts.append((part, columns, *refit_known(*known[id(own)], own, columns)))
                continue
            made = fit(
                own, columns, part.map_of(weight), importance[name][part.outputs],
                constant=name in bench.places,
            )  # fmt: skip
            parts.append((part, columns, made.weight.float(), made.constant.float()))
        found[name] = parts
    return found


def refit_known(
    inverse: Tensor, fitted: Tensor, sums: RowSums, columns: Tensor
) -> tuple[Tensor, Tensor]:
    """Fit a layer to some inputs from the fit to all; gives its map and constant.

    Where many layers read a bundle, each loses few inputs, and a fit of its own takes too long.
    """
    stays = torch.zeros(len(inverse), dtype=torch.bool, device=inverse.device)
    stays[columns] = True
    gone = (~stays).nonzero()[:, 0]
    rows = inverse.index_select(0, gone)
    taken = torch.linalg.solve(rows[:, gone], fitted[:, gone].T)
    weight = (fitted - taken.T @ rows)[:, columns].double()
    inputs, outputs = sums.means()
    return weight.float(), (outputs - weight @ inputs[columns]).float()


@torch.no_grad()
def _find_coupled(bench: Bench, curves: Sequence[Curve]) -> None:
    """See which bundles change in what is left of them when a part goes."""
    program, batch = bench.program, bench.batches[0]
    whole: Values = {0: batch.images}
    program.run(whole, bench.tensors, keep={0, *program.order})
    for curve in curves:
        if len(curve.candidate.readers) > 1:
            curve.coupled = True  # its channels are chosen once, before any of them is read
            continue
        reader = bench.survey.readers[curve.candidate.readers[0]]
        tensors = dict(bench.tensors)
        going = curve.order[: max(1, len(curve.order) // 2)]
        names = silence(bench, tensors, going) - {reader.layer.tensor}
        touched = program.touched_by(names) & program.ancestors([reader.source])
        if reader.source not in touched:
            continue
        values: Values = {n: value for n, value in whole.items() if n not in touched}
        program.run(values, tensors, only=touched, keep=[reader.source])
        before, after = whole[reader.source], values[reader.source]
        kept = torch.from_numpy(~np.isin(reader.members, going)).to(before.device)
        axis = -1 if reader.geometry is None else 1
        index = kept.nonzero()[:, 0]
        one, other = before.index_select(axis, index), after.index_select(axis, index)
        scale = one.abs().max().clamp(min=1e-30)
        curve.coupled = ((one - other).abs().max() > 1e-4 * scale).tolist()


@torch.no_grad()
def _measure_losses(
    bench: Bench,
    curves: Sequence[Curve],
    fits: Fits,
) -> None:
    """Carry out each cut by itself, and see what the outputs on held-out images lose."""
    program = bench.program
    total = np.zeros((len(curves), len(LEVELS) + 1))
    count = 0
    # On average, a cut changes half of the run.
    budget = 2 * _LOSS_MACS / (len(LEVELS) * len(bench.survey.candidates))
    most = affordable(bench, budget, bench.count)
    everything = {0, *program.order}
    for _, batch in each_batch(bench, held=True):
        if count >= most:
            break
        values: Values = {0: batch.images}
        program.run(values, bench.tensors, keep=everything)
        expected = bench.outputs(values)[: batch.count]
        for number, curve in enumerate(curves):
            for level, size in _levels(curve):
                # Made anew for every batch: held for all cuts, they would take more memory
                # than the network.
                tensors = dict(bench.tensors)
                names = silence(bench, tensors, curve.order[:size])
                for layer, parts in fits[curve.candidate.name, level].items():
                    names |= put_fit(bench, tensors, layer, parts)
                touched = program.touched_by(names)
                own = {n: value for n, value in values.items() if n not in touched}
                program.run(own, tensors, only=touched)
                lost = divergence(bench, expected, bench.outputs(own)[: batch.count], TEMPERATURE)
                total[number, level] += lost.sum().tolist()
        count += batch.count
    for number, curve in enumerate(curves):
        curve.measured = [(size, total[number, level] / count) for level, size in _levels(curve)]
