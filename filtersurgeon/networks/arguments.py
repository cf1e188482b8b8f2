"""Whether a network's ``forward`` takes what it is called with, in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_OPEN = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_MOST = 4
"""Arguments that are named."""


def describe_mismatch(function: Callable[..., Any], count: int, names: Collection[str]) -> str:
    """Say which arguments a function lacks, and which it does not take.

    Args:
        function: such as the ``forward`` of a module.
        count: how many positional arguments it is given.
        names: of the keyword arguments that it is given.

    Returns:
        Such as ``needs 'scale' and 'mask'``; empty where all is as it should be, or where the
        function does not tell what it takes.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return ""
    known = [each for each in parameters if each.kind not in _OPEN]
    in_order = [each for each in known if each.kind != _KEYWORD_ONLY]
    open_kinds = {each.kind for each in parameters if each.kind in _OPEN}
    by_name = [each.name for each in known if each.kind != inspect.Parameter.POSITIONAL_ONLY]
    placed = {each.name for each in in_order[:count]}
    given = placed | (set(names) & set(by_name))
    missing = [x.name for x in known if x.name not in given and x.default is x.empty]
    unknown = [name for name in names if name not in by_name]
    parts = []
    if missing:
        parts.append(f"needs {list_names(missing)}")
    if unknown and inspect.Parameter.VAR_KEYWORD not in open_kinds:
        takes = f" (it takes {list_names(by_name)})" if by_name and not missing else ""
        parts.append(f"takes no {list_names(unknown)}{takes}")
    if count > len(in_order) and inspect.Parameter.VAR_POSITIONAL not in open_kinds:
        parts.append(f"takes {len(in_order)} positional arguments, not {count}")
    if twice := [name for name in names if name in placed]:
        parts.append(f"gets {list_names(twice)} twice")
    return " and ".join(parts)


def list_names(names: Sequence[str]) -> str:
    """Write names in quotes, the first few of many."""
    quoted = [repr(name) for name in names[:_MOST]]
    if len(names) > _MOST:
        quoted.append(f"{len(names) - _MOST} more")
    return " and ".join(filter(None, (", ".join(quoted[:-1]), quoted[-1])))
