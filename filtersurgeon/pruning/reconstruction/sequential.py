"""Cut a network from front to back, every reading layer fitted to what the cut network gives it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.graph.program import Values
from filtersurgeon.networks.devices import mix
from filtersurgeon.pruning.reconstruction.calibration import Bench, every_batch, groups_alive
from filtersurgeon.pruning.reconstruction.edits import put_fit, silence
from filtersurgeon.pruning.reconstruction.fitting import RowSums, fit, removal_order
from filtersurgeon.pruning.reconstruction.layers import Candidate, ReadingLayer
from filtersurgeon.pruning.reconstruction.measure import columns_of
from filtersurgeon.pruning.reconstruction.rows import parts_of, sample
from filtersurgeon.pruning.reconstruction.targets import (
    SHARE,
    new_sums,
    part_rows,
    skip_rows,
    target_of,
    without_bias,
)

_STATE_BYTES = 540 << 20


@dataclass(frozen=True)
class Cut:
    """A network cut and refitted.

    Attributes:
        keep: group -> whether it is kept.
        changed: tensors that have other values, in their original shapes, in float32.
        ridges: layer -> the ridge that held-out images chose, the largest of its parts.
        errors: layer -> its weighted error on held-out images.
    """

    keep: NDArray[np.bool_]
    changed: dict[str, Tensor]
    ridges: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def cut_front_to_back(
    bench: Bench,
    removed: Mapping[str, NDArray[np.int64]],
    counts: Mapping[str, int],
    importance: Mapping[str, Tensor],
    seed: int,
    *,
    gone: NDArray[np.int64] | None = None,
    start: Mapping[str, Tensor] | None = None,
    share: float = SHARE,
    tell: Callable[[int, int], None] | None = None,
) -> Cut:
    """Cut bundles and refit the layers behind, in the order of the run.

    Each layer is fitted to what the network, cut so far, gives it; its target is what it made in
    the original network, and some of what the residual stream lacks by then. So are layers that
    lose no inputs, but read others than before; of these, the ones that read a mean over space are
    left alone.

    Args:
        bench: the network.
        removed: name of a candidate -> its groups that go, where they are chosen already.
        counts: name of a candidate -> how many of its groups go, where the fit chooses them.
        importance: layer -> ``(outputs,)``, how much its outputs matter.
        seed: of the positions.
        gone: further groups that go, of no candidate.
        start: tensors that have other values already, in their original shapes.
        share: how much of what the residual stream lacks is made up for.
        tell: told how many layers of how many are done.
    """
    tensors = {
        **bench.tensors,
        **{n: t.to(bench.device, copy=True) for n, t in (start or {}).items()},
    }
    changed: set[str] = set(start or ())
    keep = groups_alive(bench)
    fixed = [gone] if gone is not None and len(gone) else []
    fixed += [groups for groups in removed.values() if len(groups)]
    if fixed:
        keep[np.concatenate(fixed)] = False
        changed |= silence(bench, tensors, np.flatnonzero(~keep))
    open_now = {
        c.readers[0]: c
        for c in bench.survey.candidates
        if counts.get(c.name) and c.name not in removed
    }
    run = TwoRuns(bench, share)
    ridges: dict[str, float] = {}
    errors: dict[str, float] = {}
    layers = _layers_behind(bench, start or {}, changed, keep, open_now)
    for done, reader in enumerate(layers):
        sums = run.collect(reader, tensors, seed)
        candidate = open_now.get(reader.name)
        if candidate is not None:
            going = _choose(bench, candidate, reader, sums, counts[candidate.name], importance)
            keep[going] = False
            changed |= silence(bench, tensors, going)
        fits = []
        weight = bench.weight(reader.name)
        for part, own in zip(parts_of(reader, weight), sums, strict=True):
            columns = part.kept(keep).to(bench.device)
            found = fit(
                own, columns, part.map_of(weight), importance[reader.name][part.outputs],
                constant=reader.name in bench.places,
            )  # fmt: skip
            fits.append((part, columns, found.weight.float(), found.constant.float()))
            ridges[reader.name] = max(found.ridge, ridges.get(reader.name, 0.0))
            errors[reader.name] = errors.get(reader.name, 0.0) + found.error
        changed |= put_fit(bench, tensors, reader.name, fits)
        if tell:
            tell(done + 1, len(layers))
    # Channels that go have no say in any layer that was fitted; their own tensors are cut away.
    return Cut(keep, {name: tensors[name] for name in changed}, ridges, errors)


def _layers_behind(
    bench: Bench,
    start: Collection[str],
    changed: Set[str],
    keep: NDArray[np.bool_],
    open_now: Collection[str],
) -> list[ReadingLayer]:
    """List the layers that lose inputs, and those whose inputs change because others are refitted.

    The latter are left alone where they read a mean over space, and where they were given other
    weights before.
    """
    readers = bench.survey.readers.values()
    losing = {x.name: x.layer.tensor for x in readers if x.name in open_now or _loses(x, keep)}
    touched = bench.program.touched_by({*changed, *losing.values()})
    return [
        x for x in readers
        if x.name in losing
        or (x.source in touched and x.pooled is None and x.layer.tensor not in start)
    ]  # fmt: skip


def _loses(reader: ReadingLayer, keep: NDArray[np.bool_]) -> bool:
    members = reader.members[reader.members >= 0]
    return not bool(keep[members].all())


def _choose(
    bench: Bench,
    candidate: Candidate,
    reader: ReadingLayer,
    sums: Sequence[RowSums],
    count: int,
    importance: Mapping[str, Tensor],
) -> NDArray[np.int64]:
    """Choose the groups that go by what the cut network gives their reader."""
    weight, images = bench.weight(reader.name), sum(b.count for b in bench.batches if not b.held)
    readers = []
    for part, own in zip(parts_of(reader, weight), sums, strict=True):
        columns = columns_of(part, candidate, own, weight, importance[reader.name], images, {})
        if columns is not None:
            readers.append(columns)
    order, _ = removal_order(readers, candidate.width, candidate.width - count)
    return candidate.bundle.groups[order]


class _Run:
    """A network's run on all images, layer by layer.

    The values at the layer where it stands are kept for all batches if they fit into memory; where
    they do not, it starts later from what was kept before.

    Args:
        bench: the network and the images.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._at = 0
        self._states: list[Values] = [{0: batch.images} for batch in bench.batches]

    def advance(self, place: int, tensors: Mapping[str, Tensor]) -> Iterator[Values]:
        """Run up to a place in the order; give the values there, batch by batch.

        What comes before the place where the run stands was run with other tensors, perhaps.
        """
        states: list[Values] | None = []
        for number, state in enumerate(self._states):
            values = dict(state)
            self._bench.program.run(values, tensors, self._at, place)
            if states is not None:
                if number or self._fits(values):
                    states.append(dict(values))
                else:
                    states = None
            yield values
        if states is not None:
            self._states, self._at = states, place

    def _fits(self, values: Values) -> bool:
        """Tell whether the values of all batches would fit into memory."""
        found = {
            x.data_ptr(): x.numel() * x.element_size()
            for x in values.values()
            if isinstance(x, Tensor)
        }
        return sum(found.values()) * len(self._bench.batches) <= _STATE_BYTES


class TwoRuns:
    """The original network and the cut one, side by side on all images.

    The original one only runs where it is not known yet what it makes.

    Args:
        bench: the network.
        share: of what a residual stream lacks, what a layer is to make up for.
    """

    def __init__(self, bench: Bench, share: float) -> None:
        self._bench, self._share = bench, share
        self.original, self.cut = _Run(bench), _Run(bench)

    def collect(
        self, reader: ReadingLayer, tensors: Mapping[str, Tensor], seed: int
    ) -> list[RowSums]:
        """Run both up to a layer, and sum up what it sees now and should make."""
        bench = self._bench
        place = bench.program.place[reader.step]
        parts = parts_of(reader, bench.weight(reader.name))
        found: list[RowSums] = []
        targets = self._targets(reader, seed)
        runs = zip(every_batch(bench), self.cut.advance(place, tensors), targets, strict=True)
        for (number, batch), values, target in runs:
            rows = self._rows(reader, values, batch.count, mix(seed, number, place))
            carried = skip_rows(bench, reader, values, number, seed)
            wanted = target if carried is None else target - self._share * carried
            for at, part in enumerate(parts):
                x, y = part_rows(part, rows), wanted[:, part.outputs]
                if at == len(found):
                    found.append(new_sums(x.shape[1], y.shape[1], x.device))
                (found[at].hold if batch.held else found[at].add)(x, y)
        return found

    def _targets(self, reader: ReadingLayer, seed: int) -> Iterator[Tensor]:
        """Give what a layer should make, batch by batch, as far as the original network says."""
        bench, count = self._bench, len(self._bench.batches)
        keys = [(reader.name, number, seed, self._share) for number in range(count)]
        known = [bench.targets.get(key) for key in keys]
        if all(rows is not None for rows in known):
            yield from (rows for rows in known if rows is not None)
            return
        place = bench.program.place[reader.step]
        for number, values in enumerate(self.original.advance(place, bench.tensors)):
            rest = dict(values)
            bench.program.run(rest, bench.tensors, place, place + 1, keep=rest)
            made = without_bias(bench, reader.name, rest[reader.step])
            yield target_of(bench, reader, values, made, number, seed, self._share)

    def _rows(self, reader: ReadingLayer, values: Values, count: int, seed: int) -> Tensor:
        """Give the rows that a layer sees in the cut network."""
        if reader.pooled is not None:
            return sample(reader, values[reader.pooled], None, count, seed)[0]
        seen = values[reader.source]
        shaped = seen.new_zeros(1).expand(self._bench.targets.shapes[reader.name])
        return sample(reader, seen, shaped, count, seed)[0]
