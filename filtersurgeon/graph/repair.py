"""Find what a network holds in Python, by trial: which attribute, or else which channels to pin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

from torch import nn

from filtersurgeon.graph.groups import Groups, Mask, survivors
from filtersurgeon.graph.labels import Ids
from filtersurgeon.graph.record import Key, Record, Seen, Trace, whole

Held = Ids | list[Ids]

PINNED = -1
"""The mode of an operator whose arguments are pinned."""

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
    """

    modes: dict[Key, int] = field(default_factory=dict)
    fixes: dict[Key, tuple[Fix, ...]] = field(default_factory=dict)
    tried: dict[Key, int] = field(default_factory=dict)
    values: list[Any] | None = None

    def learn(self, network: nn.Module, record: Record, groups: Groups, keep: Mask) -> bool:
        """Take the next candidate for an operator at which a trial went wrong.

        First the attributes that may hold one of its lengths, then the other readings of its rule,
        then pinning its arguments, then those of everything that such modules call.

        Args:
            network: the network.
            record: the operator in the original run.
            groups: the groups of the original run.
            keep: group -> whether it was kept in the trial.

        Returns:
            Whether there was one left.
        """
        key = record.key
        number = self.tried[key] = self.tried.get(key, -1) + 1
        fixes = _candidates(network, record, groups, keep)
        self.fixes.pop(key, None)
        if number < len(fixes):
            self.fixes[key] = fixes[number]
            return True
        mode = self.modes.get(key, 0)
        if mode != PINNED:
            self.modes[key] = mode + 1 if mode + 1 < record.offered else PINNED
            del self.tried[key]
            return True
        everything = whole(key[0])
        if everything in self.modes:
            return False
        self.modes[everything] = PINNED
        return True

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
