"""What each operator does to the labels of its arguments: one small rule per operator.

A rule is a function of a :class:`~filtersurgeon.graph.labels.Step`, decorated with the names of the
ATen operators that it covers; it returns the labels of the result, or a list of them where the
operator returns several tensors. Any module of this folder may hold rules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

from filtersurgeon.graph.labels import Labels, Step

Rule = Callable[[Step], Labels | list[Labels]]

_RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of some operators, named without overload."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(operators, function))
        return function

    return register


@cache
def rules() -> dict[str, Rule]:
    """Give every rule by the name of its operator."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_"):
            import_module(f"{__name__}.{file.stem}")
    return _RULES
