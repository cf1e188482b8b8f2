"""Short texts for the ``repr`` of objects that hold very much."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TypeVar

from filtersurgeon.errors import printable

Item = TypeVar("Item")
_FIRST = 3
_LONGEST_FACT, _LONGEST_ENTRY = 60, 80


def summarise(owner: object, entries: Iterable[str] = (), /, **facts: object) -> str:
    """Describe an object in at most five lines: its class and facts, and its first entries.

    Args:
        owner: the object.
        entries: one line for each part; three are shown, and the rest are counted.
        facts: what identifies it; None is left out.

    >>> print(summarise([], ["a: 1", "b: 2", "c: 3", "d: 4"], name="x", layers=4))
    list(name='x', layers=4)
      a: 1
      b: 2
      c: 3
      and 1 more
    """
    given = (
        f"{key}={_clip(repr(value) if isinstance(value, str) else str(value), _LONGEST_FACT)}"
        for key, value in facts.items()
        if value is not None
    )
    rest = iter(entries)
    lines = [f"  {_clip(entry, _LONGEST_ENTRY)}" for entry in islice(rest, _FIRST)]
    if more := sum(1 for _ in rest):
        lines.append(f"  and {more} more")
    return "\n".join([f"{type(owner).__name__}({', '.join(given)})", *lines])


_STEPS = 40


def both_ends(items: Sequence[Item]) -> tuple[list[tuple[int, Item]], int]:
    """Give the first and the last of many items with their numbers, and how many are left out.

    >>> both_ends("abc")
    ([(1, 'a'), (2, 'b'), (3, 'c')], 0)
    """
    numbered = list(enumerate(items, 1))
    if len(numbered) <= _STEPS:
        return numbered, 0
    half = _STEPS // 2
    return numbered[:half] + numbered[-half:], len(numbered) - _STEPS


def _clip(text: str, limit: int) -> str:
    text = printable(text[:limit] if len(text) > limit else text)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
