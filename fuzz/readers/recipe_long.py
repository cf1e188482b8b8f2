"""Recipes of many steps: applied, planned, and every tensor computed."""

from __future__ import annotations

from filtersurgeon.errors import OptionError
from filtersurgeon.recipe import apply, read_recipe
from fuzz.bounds import Bounds
from fuzz.scratch import checkpoint, place

BOUNDS = Bounds(seconds=60.0, megabytes=400)
_MOST = 400
_SAFE = ("replace", "initialize", "fabricate")


def corpus() -> list[bytes]:
    step = b"- replace: {bank: dog8, layers: [dw]}\n"
    other = b"- initialize: {method: ghaar, layers: dw}\n"
    return [
        b"steps:\n" + step * 120,
        b"steps:\n" + (step + other) * 40,
        b"steps:\n- &a " + step[2:] + b"- *a\n" * 80,
    ]


def refused() -> list[bytes]:
    return [b"steps:\n" + b"- replace: {bank: dog8}\n" * 60 + b"- nothing: {}\n"]


def read(case: bytes) -> None:
    steps = read_recipe(place("long.yaml", case))
    if any(step.verb not in _SAFE for step in steps):
        raise OptionError("another verb")
    edited = apply(checkpoint(), steps[:_MOST])
    edited.metadata()
    for name in edited:
        assert memoryview(edited[name].raw()).nbytes == edited[name].nbytes
