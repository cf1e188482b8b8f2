"""Why channels are never removed: the cause of a pin, and what to change in the network's code.

Where a rule pins channels, another operator is often the cause: channels that are added to a
tensor without channels stay because of the operator that made this tensor.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from filtersurgeon.graph.groups import Groups
from filtersurgeon.graph.labels import CONSTANT, HELD, INPUT, MET, TIED, Reason
from filtersurgeon.graph.record import Record, Seen, Trace
from filtersurgeon.networks.code_lines import CodeLine

UNFOLLOWED = "its lengths do not follow the channels"
WITH_INPUT = "met the network's input"
CONSTANT_TENSOR = "met a tensor that is no parameter and no buffer"

_NUMBER = re.compile(r"(?<![\w.])\d{1,9}(?![\w.])")

REMEDIES = {
    HELD: "take the number there from a shape or an attribute",
    CONSTANT_TENSOR: "if the network owns that tensor, register it as a buffer",
    "cut at fixed positions": "keep the sizes in attributes of the module, or cut with chunk",
    "tied to a buffer not stored": "register that buffer with persistent=True",
    "laid out anew in memory": "use view, permute or slices in place of as_strided",
    "picked by indices": "use slices, split or chunk in place of the indices",
    "the length of an attention head sets its scale": "pass scale= to the attention",
    "written into a part of another tensor": "join the parts with torch.cat",
}
"""What to change where channels are pinned, by the text of the reason, as far as that is known."""

FindLines = Callable[[Collection[int]], Mapping[int, CodeLine | None]]

_NO_RULE = "no rule follows channels through it"


def remedy_for(reason: Reason) -> str:
    """Say what to change at the line of a reason; empty where nothing is known to help."""
    if reason.text == _NO_RULE and "::" in reason.operator:
        return "write it with operators of torch"
    return REMEDIES.get(reason.text, "")


@dataclass(frozen=True)
class Pin:
    """Why channels are never removed.

    Attributes:
        text: the reason.
        operator: the operator of PyTorch that they met, or ``output``; empty where the user's
            options are the reason.
        module: the module that called it; empty for the network's own code.
        line: file and line of the network's code, such as ``nets.py:12``; empty if not known.
        code: that line of code, shortened.
        remedy: what to change there; empty where nothing is known to help.
    """

    text: str
    operator: str
    module: str
    line: str = ""
    code: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.place})" if self.operator else self.text

    @property
    def place(self) -> str:
        """The operator, the module and the line, in words."""
        module = f" in {self.module}" if self.module else ""
        return f"{self.operator}{module}{self.line and f', {self.line}'}"

    @staticmethod
    def of(reason: Reason) -> Pin:
        """Describe a reason by texts alone."""
        line = reason.line
        return Pin(
            reason.text,
            reason.operator,
            reason.module,
            "" if line is None else str(line),
            "" if line is None else line.source,
            remedy_for(reason),
        )


class Causes:
    """Finds the causes of pins in a traced network.

    Args:
        trace: the run.
        groups: its channels.
        find_lines: gives the lines of code of operators, by their numbers.
    """

    def __init__(self, trace: Trace, groups: Groups, find_lines: FindLines) -> None:
        self._trace = trace
        self._find_lines = find_lines
        self._groups = groups
        self._found: dict[int, Reason] = {}

    def of(self, groups: Iterable[int]) -> list[Reason]:
        """Say what keeps some groups, each cause once, in the order of the run."""
        reasons = self._groups.reasons(groups)
        return list(dict.fromkeys(self.cause(reason) for reason in reasons))

    def pins(self, groups: Iterable[int]) -> tuple[Pin, ...]:
        """Say what keeps some groups, in texts."""
        return tuple(dict.fromkeys(map(Pin.of, self.of(groups))))

    def cause(self, reason: Reason) -> Reason:
        """Give the cause of a reason, which may be another operator; else the reason itself."""
        found = self._found.get(id(reason))
        if found is None:
            found = self._found[id(reason)] = self._cause(reason)
        return found

    def _cause(self, reason: Reason) -> Reason:
        reason = self._placed(reason)
        if reason.text == HELD and not self._states_length(reason):
            return replace(reason, text=UNFOLLOWED)
        if reason.text not in (TIED, MET, INPUT) or not 0 <= reason.number < len(self._records):
            return reason
        record = self._records[reason.number]
        seen = next((x for x in record.inputs if _is_bare(x) or _is_mixed(x)), None)
        return reason if seen is None else self._origin(reason, seen, reason.number)

    def _placed(self, reason: Reason) -> Reason:
        """Add number and line to what trials have taught, for which they were not noted."""
        numbers = self._numbers.get((reason.operator, reason.module, reason.number))
        if reason.line is not None or reason.text != HELD or not numbers:
            return reason
        lines = {self._lines[number] for number in numbers}
        return replace(reason, number=numbers[0], line=lines.pop() if len(lines) == 1 else None)

    @cached_property
    def _numbers(self) -> dict[tuple[str, str, int], list[int]]:
        """Operators that may be those of reasons without a line, by name, module and number."""
        wanted = {
            (reason.operator, reason.module, reason.number)
            for _, reason in self._groups.constraints.pins
            if reason.line is None and reason.text == HELD
        }
        found: dict[tuple[str, str, int], list[int]] = defaultdict(list)
        for number, record in enumerate(self._records):
            for key in (
                (record.key[1], record.module, -1),
                (record.key[1], record.module, number),
            ):
                if key in wanted:
                    found[key].append(number)
        return dict(found)

    @cached_property
    def _lines(self) -> Mapping[int, CodeLine | None]:
        return self._find_lines({number for each in self._numbers.values() for number in each})

    def _states_length(self, reason: Reason) -> bool:
        """Tell whether a length of an operator's tensors stands in its line of code as a number."""
        if reason.line is None or not 0 <= reason.number < len(self._records):
            return False
        record = self._records[reason.number]
        sizes = {size for seen in (*record.inputs, *record.results) for size in seen.shape}
        return any(int(number) in sizes - {0, 1} for number in _NUMBER.findall(reason.line.whole))

    def _origin(self, reason: Reason, seen: Seen, before: int) -> Reason:
        """Go back from a tensor to the operator because of which it has values without channels."""
        while True:
            made = self._producer(seen, before)
            if made is None:
                if seen is self._trace.image:
                    return reason if reason.text == INPUT else replace(reason, text=WITH_INPUT)
                return reason if id(seen) in self._own else replace(reason, text=CONSTANT_TENSOR)
            record = self._records[made]
            source = _source(record, seen)
            if source is None:
                return self._pin_at(made) or _without_channels(reason, record)
            seen, before = source, made

    @property
    def _records(self) -> list[Record]:
        return self._trace.records

    def _producer(self, seen: Seen, before: int) -> int | None:
        places = self._made_at.get(id(seen), [])
        place = bisect_left(places, before)
        return places[place - 1] if place else None

    @cached_property
    def _made_at(self) -> dict[int, list[int]]:
        """Where every tensor was made or written: numbers of records, in order."""
        found: dict[int, list[int]] = defaultdict(list)
        for number, record in enumerate(self._records):
            for seen in record.results:
                found[id(seen)].append(number)
        return dict(found)

    @cached_property
    def _own(self) -> set[int]:
        """The tensors of the network."""
        pairs = (
            pair
            for record in self._records
            for pair in zip(record.inputs, record.names, strict=True)
        )
        return {id(seen) for seen, name in pairs if name is not None}

    def _pin_at(self, number: int) -> Reason | None:
        pins = self._groups.constraints.pins
        found = (reason for _, reason in pins if self._placed(reason).number == number)
        return next(map(self.cause, found), None)


def _source(record: Record, seen: Seen) -> Seen | None:
    """Give the input that a tensor without channels comes from; None if this operator made it."""
    if _is_bare(seen):
        if any(_has_channels(x) for x in record.inputs):
            return None
        return next((x for x in record.inputs if x.shape), None)
    mixed = next((x for x in record.inputs if _is_mixed(x)), None)
    return mixed or next((x for x in record.inputs if _is_bare(x)), None)


def _without_channels(reason: Reason, record: Record) -> Reason:
    where = f" in {record.module}" if record.module not in ("", reason.module) else ""
    return replace(reason, text=f"tied to values of {record.key[1]}{where}, which are no channels")


def _has_channels(seen: Seen) -> bool:
    return any(ids is not None and (ids >= 0).any() for ids in seen.labels)


def _is_bare(seen: Seen) -> bool:
    """Tell of a tensor with several values whether none of its axes has labels."""
    return any(size > 1 for size in seen.shape) and all(ids is None for ids in seen.labels)


def _is_mixed(seen: Seen) -> bool:
    """Tell whether an axis of a tensor has channels and values that are none."""
    return _has_channels(seen) and any(
        ids is not None and (ids == CONSTANT).any() for ids in seen.labels
    )
