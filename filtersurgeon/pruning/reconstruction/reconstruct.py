"""Prune to a size and keep what the network does: allocation, selection and refit together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from filtersurgeon.checkpoint import HistoryEntry
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.graph.groups import channels_each
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.program import Values
from filtersurgeon.graph.slim import slim
from filtersurgeon.learn.latency import Pass, prepare_pass, time_in_turn
from filtersurgeon.learn.scores import ScoreReader
from filtersurgeon.networks.build import build
from filtersurgeon.pruning.compensation.kinds.sequential import as_network
from filtersurgeon.pruning.plan import PercentileRanks, Plan, mean_ranks
from filtersurgeon.pruning.reconstruction.allocation import (
    Sizes,
    allocate,
    allowed_removals,
    uniform,
)
from filtersurgeon.pruning.reconstruction.calibration import Bench, each_batch
from filtersurgeon.pruning.reconstruction.layers import STREAM, Candidate
from filtersurgeon.pruning.reconstruction.measure import FLOOR, Curve, Statistics, floor_of, measure
from filtersurgeon.pruning.reconstruction.plan_file import PlannedBundle
from filtersurgeon.pruning.reconstruction.sequential import Cut, cut_front_to_back
from filtersurgeon.pruning.settings import RECONSTRUCTION, PruneSettings
from filtersurgeon.pruning.target import Target
from filtersurgeon.pruning.worth import Comparison, Worth

Tell = Callable[[int, int], None]

ROUND_TO = 8
_FEW = 200
_NAMED = 3
_NEAR = 1.01  # how near to a target is near enough
_TIMINGS = 8
_TIMED_RUNS = 30
_BLOCKS = (8, 16)
_WHOLE = 2.0
"""What a branch saves that goes whole, in units of its operations: narrow layers take more time.

With ResNet-56 in onnxruntime, as much accuracy is kept as with 1, in .595 of the original's time in
place of .634; 3 keeps less accuracy.
"""


class TooSlowError(OptionError):
    """No network that was tried is fast enough."""


@dataclass(frozen=True)
class Prepared:
    """A network whose cuts are all measured, ready to be cut to any size.

    Attributes:
        bench: the network and its images.
        statistics: what was measured.
        seed: of what was drawn.
    """

    bench: Bench
    statistics: Statistics
    seed: int

    def macs_each(self) -> NDArray[np.float64]:
        """Give the operations that one group of each bundle takes part in."""
        graph = self.bench.opened.graph
        everything = np.ones(len(graph.groups), bool)
        candidates = [curve.candidate for curve in self.statistics.curves]
        sizes = Sizes(graph, candidates, "macs", everything)
        return sizes.slopes(sizes.full)


@dataclass(frozen=True)
class Allocation:
    """How many groups of channels each bundle keeps.

    Attributes:
        keep: name of a bundle -> groups that are kept.
        size: of the network then, in the unit of the target.
        loss: predicted loss, or nan.
    """

    keep: Mapping[str, int]
    size: float
    loss: float


def prepare(
    bench: Bench,
    *,
    ranks: PercentileRanks | None = None,
    losses: bool = True,
    branches: bool = False,
    before: Prepared | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> Prepared:
    """Measure what every cut of a network costs.

    Args:
        bench: the network and its images, as :func:`open_bench` gives them.
        ranks: of the filters of every layer, where these choose which channels go.
        losses: carry cuts out to measure their loss; else only their error is predicted.
        branches: residual branches may go whole.
        before: the same network and images, where fewer bundles could be cut.
        seed: of what is drawn.
        tell: told how many steps of how many are done.
    """
    chosen = None if ranks is None else _order_by(bench, ranks)
    known = None if before is None else before.statistics
    found = measure(
        bench, seed, selection=chosen, losses=losses, branches=branches, before=known, tell=tell
    )
    return Prepared(bench, found, seed)


def check_cuts(bench: Bench, wanted: Target | None = None, planned: Collection[str] = ()) -> None:
    """Refuse what cannot be had of a network, before anything is measured.

    Args:
        bench: the network.
        wanted: a size.
        planned: names of bundles that a plan cuts.

    Raises:
        OptionError: the size cannot be reached, or the plan cuts a stream that is kept whole.
        LayerError: there is no bundle that can be cut and refitted.
    """
    found, kept = bench.survey.candidates, bench.survey.kept
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(kept.items())[:2])
        raise LayerError(
            f"{bench.opened.checkpoint.name} has no channels between two layers that can be cut "
            f"and refitted{f' ({reasons})' if reasons else ''}"
            + ("; `streams='cut'` cuts residual streams, too" if has_streams(bench) else "")
        )
    if wanted is not None:
        check_reachable(bench.opened, wanted, found, len(kept), streams=has_streams(bench))
    for name in planned:
        if kept.get(name) == STREAM:
            raise OptionError(
                f"the plan cuts {name}, which is kept whole ({STREAM}); pass `streams='cut'`"
            )


def check_reachable(
    opened: OpenedModel,
    wanted: Target,
    candidates: Sequence[Candidate],
    whole: int = 0,
    *,
    streams: bool = False,
) -> None:
    """Refuse a size that a network has not when its bundles are cut as far as they may.

    Args:
        opened: the network.
        wanted: the size; a latency is not judged.
        candidates: the bundles; without any, nothing is judged.
        whole: how many more are kept whole.
        streams: whether residual streams are among these.

    Raises:
        OptionError: it cannot be reached; names the smallest.
    """
    if wanted.quantity == "latency" or not candidates:
        return
    everything = np.ones(len(opened.graph.groups), bool)
    sizes = Sizes(opened.graph, candidates, wanted.quantity, everything)
    least = sizes(np.array([floor_of(width) for width in sizes.full.tolist()], np.int64))
    total = sizes(sizes.full)
    if least > _NEAR * wanted.wanted(total):
        how = "to a tenth"
        raise _unreachable(str(wanted), least / total, len(candidates), how, whole, streams=streams)


def _unreachable(
    wanted: str, share: float, cut: int, how: str, whole: int, *, streams: bool
) -> OptionError:
    return OptionError(
        f"`target` {wanted} cannot be reached: {share:.3f}x is left when {cut} bundles of channels "
        f"are cut {how}"
        + (f", {whole} {'is' if whole == 1 else 'are'} kept whole" if whole else "")
        + ("; `streams='cut'` may reach further" if streams else "")
    )


def every_bundle(opened: OpenedModel) -> list[Candidate]:
    """Take all bundles that may be cut as candidates, whether they can be refitted or not."""
    return [
        Candidate("", bundle, (), stream=False)
        for bundle in opened.graph.groups.bundles
        if not bundle.pinned
    ]


def check_plan(prepared: Prepared, bundles: Mapping[str, PlannedBundle]) -> None:
    """Refuse a plan of another network.

    Raises:
        OptionError: a bundle has another width here.
    """
    widths = {c.name: c.width for c in prepared.bench.survey.candidates}
    for name, bundle in bundles.items():
        if bundle.stated and name in widths and widths[name] != bundle.width:
            raise OptionError(
                f"the plan is of another network: its {name} has {bundle.width} groups of "
                f"channels, here it has {widths[name]}"
            )


def has_streams(bench: Bench) -> bool:
    """Tell whether residual streams are kept whole that could be cut."""
    return STREAM in bench.survey.kept.values()


def _order_by(bench: Bench, ranks: PercentileRanks) -> dict[str, list[int]]:
    """Order the groups of every bundle by mean percentile ranks of the layers that make them."""
    groups = bench.opened.graph.groups
    worth = mean_ranks(groups, bench.opened.layers, ranks).scores
    found = {}
    for candidate in bench.survey.candidates:
        members = candidate.bundle.groups
        found[candidate.name] = members[np.lexsort((members, worth[members]))].tolist()
    return found


def choose_widths(
    prepared: Prepared,
    quantity: str,
    wanted: Callable[[float], float],
    *,
    measured: bool = True,
    round_to: int | None = None,
    min_channels: int = 1,
    whole: bool = False,
) -> Allocation:
    """Choose how much of every bundle is kept.

    Args:
        prepared: the network, measured.
        quantity: ``params`` or ``macs``.
        wanted: gives the size to reach from the size as it is.
        measured: by the loss that was measured; else the same share of every bundle.
        round_to: widths are multiples of so many channels; by default of 8 where a bundle has 64
            channels or more.
        min_channels: how many channels every bundle keeps.
        whole: residual branches of known loss may go whole.

    Raises:
        OptionError: the size cannot be reached; names the smallest.
    """
    bench, curves = prepared.bench, prepared.statistics.curves
    candidates = [curve.candidate for curve in curves]
    everything = np.ones(len(bench.opened.graph.groups), bool)
    sizes = Sizes(bench.opened.graph, candidates, quantity, everything)
    if round_to is None and not measured:
        round_to = 1
    allowed = [_allowed(bench, curve, round_to, min_channels) for curve in curves]
    if whole and measured:
        allowed = [
            numbers if curve.whole is None else np.append(numbers, curve.candidate.width)
            for numbers, curve in zip(allowed, curves, strict=True)
        ]
    total = sizes(sizes.full)
    size = wanted(total)
    least = sizes(sizes.full - np.array([numbers[-1] for numbers in allowed]))
    if least > size * _NEAR:
        raise _unreachable(
            f"{quantity}={size / total:.3g}x", least / total, len(candidates),
            "as far as they may", len(bench.survey.kept), streams=has_streams(bench),
        )  # fmt: skip
    if measured:
        losses = [curve.losses() for curve in curves]
        found = allocate(sizes, losses, allowed, max(size, least), _WHOLE if whole else 1.0)
    else:
        found = uniform(sizes, allowed, sizes.full, max(size, least))
    keep = {c.name: int(count) for c, count in zip(candidates, found.kept, strict=True)}
    return Allocation(keep, found.size, found.loss)


def _allowed(
    bench: Bench, curve: Curve, round_to: int | None, min_channels: int
) -> NDArray[np.int64]:
    each = _each(bench, curve.candidate)
    channels = each * curve.candidate.width
    multiple = round_to if round_to is not None else (ROUND_TO if channels >= 8 * ROUND_TO else 1)
    step = multiple // gcd(multiple, each)
    least = -(-min_channels // each)
    width = curve.candidate.width
    return allowed_removals(width, min(len(curve.order), width - curve.floor), step, least)


def _each(bench: Bench, candidate: Candidate) -> int:
    bundle = candidate.bundle
    return channels_each(bench.opened.graph.groups, bundle.axes, int(bundle.groups[0]))


def carry_out(
    prepared: Prepared,
    keep: Mapping[str, int],
    *,
    refit: bool = True,
    chosen: bool = False,
    tell: Tell | None = None,
) -> Cut:
    """Cut a network to given widths, and refit it from front to back.

    Args:
        prepared: the network, measured.
        keep: name of a bundle -> groups that are kept; others are kept whole.
        refit: give the layers that read cut channels new weights.
        chosen: the channels that go are those of the measured order, whatever the cut network
            says; so it is if another ranking chose them.
        tell: told how many layers of how many are done.

    Raises:
        OptionError: a bundle that the network does not have, or more groups than it has.
    """
    removed: dict[str, NDArray[np.int64]] = {}
    counts: dict[str, int] = {}
    known = {curve.candidate.name: curve for curve in prepared.statistics.curves}
    for name, count in keep.items():
        if name not in known:
            why = prepared.bench.survey.kept.get(name)
            raise OptionError(
                f"the plan cuts {name}, which "
                + (f"is kept whole ({why})" if why else "is no bundle of this network")
            )
        curve = known[name]
        if not 0 <= count <= curve.candidate.width:
            raise OptionError(
                f"the plan keeps {count} of {name}, which has {curve.candidate.width}"
            )
        going = curve.candidate.width - count
        if going > len(curve.order) or 0 < count < curve.floor:
            raise OptionError(
                f"the plan keeps {count} of {name}; {curve.floor} is the least ({FLOOR:.0%})"
            )
        if going and (curve.coupled or chosen or not refit):
            removed[name] = curve.order[:going]
        elif going:
            counts[name] = going
    if not refit:
        alive = np.ones(len(prepared.bench.opened.graph.groups), bool)
        for groups in removed.values():
            alive[groups] = False
        return Cut(alive, {})
    return cut_front_to_back(
        prepared.bench, removed, counts, prepared.statistics.importance, prepared.seed, tell=tell
    )


@dataclass(frozen=True)
class Reconstruction:
    """A cut that keeps what the network does, as far as it can be kept.

    Attributes:
        prepared: the network, measured.
        allocation: how much every bundle keeps.
        plan: which groups of channels are kept.
        changed: tensors that have other values, in the network's own shapes and types.
        worth: how the outputs compare on held-out images; None if another compensation follows.
    """

    prepared: Prepared
    allocation: Allocation
    plan: Plan
    changed: dict[str, torch.Tensor]
    worth: Worth | None

    def notes(self, *, made: bool = False) -> list[str]:
        """Say what was not cut, and what the layers were fitted to.

        Args:
            made: the images were made from the network itself.
        """
        bench = self.prepared.bench
        found = list(kept_whole(self.prepared))
        gone = [name for name, count in self.allocation.keep.items() if not count]
        if gone:
            found.append(
                f"{len(gone)} residual {'branches give' if len(gone) > 1 else 'branch gives'} a "
                f"constant now: {_list_some(gone)}"
            )
        if made:
            found.append(
                f"fitted to {bench.count} images made from the network's own batch norms; real "
                "ones (`data`, some hundreds, without labels) keep more accuracy"
            )
        elif bench.count < _FEW:
            found.append(
                f"fitted to {bench.count} images; some hundreds keep more accuracy (with few, "
                "layers stay closer to their old weights)"
            )
        return found


def reconstruct(
    prepared: Prepared,
    settings: PruneSettings,
    *,
    allocation: Allocation | None = None,
    tell: Tell | None = None,
) -> Reconstruction:
    """Cut a network to a target, or to given widths.

    Args:
        prepared: the network, measured.
        settings: how to prune.
        allocation: the widths, where they are known already.
        tell: told how many layers of how many are done.

    Raises:
        OptionError: the target cannot be reached, or the widths are not those of the network.
    """
    if allocation is None:
        allocation = reach_target(prepared, settings)
    refit = settings.compensate == "sequential"
    chosen = settings.select != RECONSTRUCTION
    cut = carry_out(prepared, allocation.keep, refit=refit, chosen=chosen, tell=tell)
    worth = held_out_worth(prepared, cut.changed) if refit else None
    changed = as_network(prepared.bench.opened, cut.changed)
    return Reconstruction(prepared, allocation, Plan(cut.keep), changed, worth)


def reach_target(prepared: Prepared, settings: PruneSettings) -> Allocation:
    """Choose how much of every bundle is kept for the target of the settings.

    Raises:
        OptionError: the target cannot be reached.
    """
    target = settings.target
    assert target is not None
    if target.quantity == "latency":
        return _reach_latency(prepared, settings)
    return _allocate(prepared, settings, target.quantity, target.wanted)


def saves_time(settings: PruneSettings) -> bool:
    """Tell whether time is to be saved, for which residual branches may go whole.

    For operations alone, narrower ones lose less.
    """
    target = settings.target
    latency = target is not None and target.quantity == "latency"
    return latency or (settings.round_to or 1) >= ROUND_TO


def _allocate(
    prepared: Prepared, settings: PruneSettings, quantity: str, wanted: Callable[[float], float]
) -> Allocation:
    return choose_widths(
        prepared, quantity, wanted, measured=settings.allocate == "measured",
        round_to=settings.round_to, min_channels=settings.min_channels,
        whole=saves_time(settings),
    )  # fmt: skip


def _reach_latency(prepared: Prepared, settings: PruneSettings) -> Allocation:
    """Find the network of least loss that is fast enough, by the clock.

    The share of the operations is halved towards the largest that is fast enough. Fast kernels work
    on 8 or 16 channels at a time, so that widths between cost accuracy and save nothing: the search
    is repeated with multiples of these, unless the settings name a multiple.
    """
    target = settings.target
    assert target is not None
    clock = _Clock(prepared, settings.runtime)
    multiples = (None, *_BLOCKS) if settings.round_to is None else (settings.round_to,)
    found = []
    for multiple in multiples:
        reached = _fast_enough(prepared, replace(settings, round_to=multiple), target, clock)
        if reached is not None:
            found.append(reached)
    if not found:
        raise TooSlowError(
            f"`target` {target} cannot be reached: the fastest network that was tried takes "
            f"{clock.fastest:.2f} of the original's time"
        )
    # Without losses, as with equal shares, the first is as good as any.
    return min(found, key=lambda allocation: allocation.loss)


def _fast_enough(
    prepared: Prepared, settings: PruneSettings, target: Target, clock: _Clock
) -> Allocation | None:
    """Find the largest network that is fast enough, its widths on the multiple of the settings."""
    low, high = 0.0, 1.0
    best: Allocation | None = None
    for _ in range(_TIMINGS):
        middle = (low + high) / 2
        try:
            found = _allocate(prepared, settings, "macs", Target("macs", middle).wanted)
        except OptionError:
            low = middle
            continue
        seconds, whole = clock.time(found)
        if seconds <= target.wanted(whole):
            low, best = middle, found
        else:
            high = middle
    return best


class _Clock:
    """Times cut networks, each in turn with the original one.

    Args:
        prepared: the network, measured.
        runtime: what runs them, ``torch`` or ``onnxruntime``.
    """

    def __init__(self, prepared: Prepared, runtime: str) -> None:
        self.fastest = np.inf
        self._prepared, self._runtime = prepared, runtime
        self._original = self._pass(prepared.bench.network)
        self._known: dict[tuple[int, ...], tuple[float, float]] = {}

    def _pass(self, network: nn.Module) -> Pass:
        shape = self._prepared.bench.batches[0].images.shape[1:]
        return prepare_pass(network.eval(), shape, 1, self._runtime)

    def time(self, allocation: Allocation) -> tuple[float, float]:
        """Give the seconds of the cut network and of the original one, batch 1."""
        key = tuple(allocation.keep.values())
        if key not in self._known:
            bench = self._prepared.bench
            cut = carry_out(self._prepared, allocation.keep, refit=False)
            slimmed = slim(bench.opened, cut.keep, HistoryEntry("prune", {}))
            pruned = self._pass(build(slimmed).float().to(bench.device))
            times = time_in_turn([pruned, self._original], _TIMED_RUNS)
            own, whole = np.median(times, axis=1).tolist()
            self._known[key] = own / 1e3, whole / 1e3
            self.fastest = min(self.fastest, own / whole)
        return self._known[key]


@torch.no_grad()
def held_out_worth(prepared: Prepared, changed: Mapping[str, torch.Tensor]) -> Worth:
    """Compare the cut network with the original one on images that nothing was fitted to.

    Args:
        prepared: the network.
        changed: tensors of the cut network, in their original shapes.
    """
    bench = prepared.bench
    reader = ScoreReader(bench.kind)
    comparison = Comparison(reader, bench.names)
    if comparison.counts and bench.labels is not None:
        reader(bench.network, bench.batches[0].images[:1])  # finds how it ends
    program, start = bench.program, sum(b.count for b in bench.batches if not b.held)
    tensors = {**bench.tensors, **{n: t.to(bench.device) for n, t in changed.items()}}
    wanted = [program.scores] if program.scores is not None else list(program.outputs)
    for _, batch in each_batch(bench, held=True):
        found = []
        for own in (bench.tensors, tensors):
            values: Values = {0: batch.images}
            program.run(values, own, keep=wanted)
            found.append([values[number][: batch.count] for number in wanted])
        labels = None if bench.labels is None else bench.labels[start : start + batch.count]
        comparison.add(found[0], found[1], labels)
        start += batch.count
    return comparison.worth(held_out=True)


def kept_whole(prepared: Prepared) -> Sequence[str]:
    """Say which bundles are kept whole, and why, one line for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in prepared.bench.survey.kept.items():
        reasons.setdefault(why, []).append(name)
    return [f"kept whole ({why}): {_list_some(names)}" for why, names in reasons.items()]


def _list_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"
