"""Find what a network holds in Python, by trial: which attribute, or else which channels to pin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import numpy as np
from torch import nn

from filtersurgeon.graph.blame import Mismatch, Place, axis_at, find_culprits, find_places
from filtersurgeon.graph.groups import Bundle, Groups, Mask, survivors
from filtersurgeon.graph.labels import Ids, Reason
from filtersurgeon.graph.record import Key, Record, Seen, Trace

Held = Ids | list[Ids]

_HELD = "held in Python"
_LEVELS = 4
_COMBINATIONS = 16


@dataclass(frozen=True)
class Fix:
    """An attribute that follows a number of channels.

    Attributes:
        levels: how far above the module that calls the operator, 0 for that module itself.
        attribute: its name.
        place: which of the operator's lengths it holds.
        part: which of several lengths, where the place is a list of them and the attribute a
            number.
    """

    levels: int
    attribute: str
    place: int
    part: int | None = None


@dataclass
class Knowledge:
    """What trials have taught about the operators of a network.

    Attributes:
        modes: operators whose first readings, or all, have failed.
        fixes: operators beside which attributes hold lengths.
        tried: how many candidates of an operator have failed.
        values: numbers that the network reads from its tensors; None until they are needed.
        pins: operators -> where they meet channels that nothing lets go.
        pinned_slots: tensors of the network, with an axis, the indices that nothing lets go there,
            and the reason; for channels that the failing module does not meet.
    """

    modes: dict[Key, int] = field(default_factory=dict)
    fixes: dict[Key, tuple[Fix, ...]] = field(default_factory=dict)
    tried: dict[Key, int] = field(default_factory=dict)
    values: list[Any] | None = None
    pins: dict[Key, set[Place]] = field(default_factory=dict)
    pinned_slots: list[tuple[str, int, Ids, Reason]] = field(default_factory=list)

    def learn(
        self,
        network: nn.Module,
        trace: Trace,
        failed: int,
        groups: Groups,
        keep: Mask,
        mismatch: Mismatch,
    ) -> bool:
        """Take the next candidate for an operator at which a trial went wrong.

        First the attributes that may hold one of its lengths, then the other readings of its rule,
        then pinning the channels that it cannot do without.

        Args:
            network: the network.
            trace: the original run.
            failed: number of the operator.
            groups: the groups of the original run.
            keep: group -> whether it was kept in the trial.
            mismatch: runs another trial.

        Returns:
            Whether there was one left.
        """
        record = trace.records[failed]
        key = record.key
        number = self.tried[key] = self.tried.get(key, -1) + 1
        fixes = _candidates(network, record, groups, keep)
        self.fixes.pop(key, None)
        if number < len(fixes):
            self.fixes[key] = fixes[number]
            return True
        del self.tried[key]
        mode = self.modes.get(key, 0)
        if mode + 1 < record.offered:
            self.modes[key] = mode + 1
            return True
        culprits = find_culprits(groups, record, failed, keep, mismatch)
        for bundle in culprits:
            self._pin(network, trace, groups, failed, bundle)
        return bool(culprits)

    def _pin(
        self, network: nn.Module, trace: Trace, groups: Groups, failed: int, bundle: Bundle
    ) -> None:
        """Pin a bundle where a module of a class meets it, or, if only others do, in itself."""
        record = trace.records[failed]
        owner = _owner(network, record)
        number, places = find_places(
            trace, groups, failed, bundle,
            lambda other: other.key[0] == record.key[0] and _owner(network, other) == owner,
        )  # fmt: skip
        key = trace.records[number].key
        if number == failed and places and self.modes.get(key, 0) < record.offered:
            self.modes[key] = record.offered  # its rule pins them
            return
        if number != failed or not places:
            self.modes.pop(record.key, None)  # it is not what was read wrongly
        if new := set(places) - self.pins.get(key, set()):
            self.pins.setdefault(key, set()).update(new)
            return
        reason = Reason(record.key[1], record.module, _HELD)
        for name, axis in bundle.axes:
            ids = groups.slots[name][axis]
            assert ids is not None
            there = np.flatnonzero((ids >= 0) & np.isin(groups.of[ids], bundle.groups))
            self.pinned_slots.append((name, axis, there, reason))

    def pin(self, trace: Trace) -> None:
        """Pin in a trace what has been learnt to stay."""
        for number, record in enumerate(trace.records):
            for place in self.pins.get(record.key, ()):
                reason = Reason(record.key[1], record.module, _HELD, number=number)
                trace.constraints.pin(axis_at(record, place), reason)
        for name, axis, places, reason in self.pinned_slots:
            labels = trace.slots.get(name)
            ids = None if labels is None else labels[axis]
            if ids is not None:
                trace.constraints.pin(ids[places], reason)

    def settings(self, network: nn.Module, trace: Trace, alive: Mask) -> dict[str, dict[str, Any]]:
        """Give what modules are to hold when only some labels are kept.

        Returns:
            Module -> attribute -> value, for the values that change.
        """
        found: dict[str, dict[str, Any]] = {}

        def put(module: str, attribute: str, held: Held) -> None:
            value = getattr(network.get_submodule(module), attribute, None)
            if _holds(value, held):
                found.setdefault(module, {})[attribute] = _kept_length(value, held, alive)

        for record in trace.records:
            for attribute, held in record.named.items():
                if any(_shrinks(seen, alive) for seen in record.inputs):
                    put(record.module, attribute, held)
            for fix in self.fixes.get(record.key, ()):
                name = _above(record.module, fix.levels)
                places = lengths(record)
                if name is not None and fix.place < len(places):
                    put(name, fix.attribute, _part(places[fix.place], fix.part))
        return found


def _part(held: Held, part: int | None) -> Held:
    return held[part] if isinstance(held, list) and part is not None else held


def _shrinks(seen: Seen, alive: Mask) -> bool:
    return any(ids is not None and len(survivors(ids, alive)) < len(ids) for ids in seen.labels)


def lengths(record: Record) -> list[Held]:
    """List the lengths of an operator that a network may hold, the likeliest first."""
    axes = [
        axis
        for seen in (*record.results, *record.inputs)
        for axis in seen.labels
        if axis is not None and (axis >= 0).any()
    ]
    return [*record.held, *axes]


def _candidates(
    network: nn.Module, record: Record, groups: Groups, keep: Mask
) -> list[tuple[Fix, ...]]:
    """List the attributes that may hold lengths, leaving out those that would change nothing."""
    places, alive = lengths(record), keep[groups.of]
    found: dict[tuple[object, ...], tuple[Fix, ...]] = {}
    for levels in range(_LEVELS):
        name = _above(record.module, levels)
        if name is None:
            break
        own = vars(network.get_submodule(name))
        for place, held in enumerate(places):
            after = _lengths_kept(held, alive)
            if after == _lengths_kept(held, None):
                continue
            if isinstance(held, list):
                for fixes in _jointly(own, held, groups, levels, place):
                    attributes = tuple(fix.attribute for fix in fixes)
                    found.setdefault((levels, attributes, after), fixes)
            for attribute, value in own.items():
                if _holds(value, held):
                    effect = (levels, attribute, after)
                    found.setdefault(effect, (Fix(levels, attribute, place),))
    return list(found.values())


def _lengths_kept(held: Held, alive: Mask | None) -> tuple[int, ...]:
    parts = held if isinstance(held, list) else [held]
    return tuple(len(ids if alive is None else survivors(ids, alive)) for ids in parts)


def _jointly(
    own: Mapping[str, Any], held: list[Ids], groups: Groups, levels: int, place: int
) -> Iterator[tuple[Fix, ...]]:
    """Look for one number for each of several lengths; parts that shrink alike may share one."""
    matches = [[key for key, value in own.items() if _holds(value, ids)] for ids in held]
    if not all(matches):
        return
    members = [groups.of[ids].tobytes() for ids in held]
    for attributes in islice(product(*matches), _COMBINATIONS):
        owners = set(zip(attributes, members, strict=True))
        if len(owners) == len(set(attributes)):
            yield tuple(Fix(levels, a, place, part) for part, a in enumerate(attributes))


def _owner(network: nn.Module, record: Record) -> str:
    """Name the module of the class that an operator is counted for."""
    name = record.module
    while name and type(network.get_submodule(name)).__name__ != record.key[0]:
        name = name.rpartition(".")[0]
    return name


def _above(module: str, levels: int) -> str | None:
    parts = module.split(".") if module else []
    if levels > len(parts):
        return None
    return ".".join(parts[: len(parts) - levels])


def _holds(value: Any, held: Held) -> bool:
    if isinstance(held, list):
        return type(value) in (list, tuple) and list(value) == [len(ids) for ids in held]
    return type(value) is int and value == len(held)


def _kept_length(value: Any, held: Held, alive: Mask) -> Any:
    if isinstance(held, list):
        return type(value)(len(survivors(ids, alive)) for ids in held)
    return len(survivors(held, alive))
