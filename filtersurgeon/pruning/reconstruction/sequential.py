"""Cut a network from front to back, every reading layer fitted to what the cut network gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.graph.program import Values
from filtersurgeon.networks.devices import mix
from filtersurgeon.pruning.reconstruction.calibration import Bench, groups_alive
from filtersurgeon.pruning.reconstruction.fitting import RowSums, fit, removal_order
from filtersurgeon.pruning.reconstruction.layers import Candidate, ReadingLayer
from filtersurgeon.pruning.reconstruction.measure import (
    columns_of,
    new_sums,
    part_rows,
    put_fit,
    silence,
    target_rows,
    without_bias,
)
from filtersurgeon.pruning.reconstruction.rows import missed, parts_of, sample

SHARE = 0.5
"""Of the error that a residual stream carries by then, what each layer is to make up for."""

_STATE_BYTES = 1200 << 20


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
    """Cut bundles and refit the layers that read them, in the order of the run.

    Each layer is fitted to what the network, cut so far, gives it; its target is what it made in
    the original network, and some of what the residual stream lacks by then.

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
    tensors = {**bench.tensors, **{n: t.to(bench.device) for n, t in (start or {}).items()}}
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
    run = _TwoRuns(bench, share)
    ridges: dict[str, float] = {}
    errors: dict[str, float] = {}
    layers = [
        reader for reader in bench.survey.readers.values()
        if reader.name in open_now or _loses(reader, keep)
    ]  # fmt: skip
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


class _TwoRuns:
    """The original network and the cut one, side by side on all images.

    The values of both at the layer that was fitted last are kept for all batches if they fit into
    memory; where they do not, later layers start from what was kept before.

    Args:
        bench: the network.
        share: of what a residual stream lacks, what a layer is to make up for.
    """

    def __init__(self, bench: Bench, share: float) -> None:
        self._bench, self._share = bench, share
        self._at = 0
        self._states: list[tuple[Values, Values]] = [
            ({0: batch.images}, {0: batch.images}) for batch in bench.batches
        ]

    def collect(
        self, reader: ReadingLayer, tensors: Mapping[str, Tensor], seed: int
    ) -> list[RowSums]:
        """Run both up to a layer, and sum up what it sees now and should make."""
        bench, program = self._bench, self._bench.program
        place = program.place[reader.step]
        weight = bench.weight(reader.name)
        parts = parts_of(reader, weight)
        found: list[RowSums] = []
        states: list[tuple[Values, Values]] | None = []
        for number, batch in enumerate(bench.batches):
            original, cut = (dict(values) for values in self._states[number])
            program.run(original, bench.tensors, self._at, place)
            program.run(cut, tensors, self._at, place)
            if states is not None:
                if not number and not self._fits(original, cut):
                    states = None
                else:
                    states.append((original, cut))
            rows, targets = self._rows(reader, original, cut, batch.count, mix(seed, number, place))
            for at, part in enumerate(parts):
                x = part_rows(part, rows)
                y = targets[:, part.outputs]
                if at == len(found):
                    found.append(new_sums(x.shape[1], y.shape[1], x.device))
                (found[at].hold if batch.held else found[at].add)(x, y)
        if states is not None:
            self._states, self._at = states, place
        return found

    def _rows(
        self, reader: ReadingLayer, original: Values, cut: Values, count: int, seed: int
    ) -> tuple[Tensor, Tensor]:
        bench, program = self._bench, self._bench.program
        weight = bench.weight(reader.name)
        if reader.pooled is not None:
            before, _ = sample(reader, original[reader.pooled], None, count, seed)
            rows, _ = sample(reader, cut[reader.pooled], None, count, seed)
            made = [
                target_rows(part, weight, part_rows(part, before), None)
                for part in parts_of(reader, weight)
            ]
            return rows, torch.cat(made, dim=1)
        rest = dict(original)
        place = program.place[reader.step]
        program.run(rest, bench.tensors, place, place + 1, keep=rest)
        target = without_bias(bench, reader.name, rest[reader.step])
        if reader.skip is not None and self._share:
            target = target + self._share * missed(reader.skip, original, cut, bench.tensors)
        rows, found = sample(reader, cut[reader.source], target, count, seed)
        assert found is not None
        return rows, found

    def _fits(self, *values: Values) -> bool:
        """Tell whether the values of all batches would fit into memory."""
        seen: set[int] = set()
        size = 0
        for some in values:
            for value in some.values():
                if isinstance(value, Tensor) and value.data_ptr() not in seen:
                    seen.add(value.data_ptr())
                    size += value.numel() * value.element_size()
        return size * len(self._bench.batches) <= _STATE_BYTES
