"""Which rectifier takes the place of which; no torch here."""

from __future__ import annotations

from math import inf
from typing import NamedTuple

from filtersurgeon.errors import OptionError, near_misses

KINDS = ("relu", "leaky-relu", "proxygrad")
"""``relu``; ``leaky-relu`` leaks in both passes; ``proxygrad`` leaks in the backward pass only."""


class Shape(NamedTuple):
    """The shape of one rectifier.

    Attributes:
        forward_slope: below zero, in the forward pass.
        backward_slope: below zero, in the backward pass.
        cap: where it is cut off, as a ReLU6 is at 6; infinity for none.
    """

    forward_slope: float = 0.0
    backward_slope: float = 0.0
    cap: float = inf


def reshape(own: Shape, kind: str, slope: float) -> Shape:
    """Give the rectifier of a kind that takes the place of another; a cap stays."""
    if kind == "relu":
        return Shape(0.0, 0.0, own.cap)
    if kind == "leaky-relu":
        return Shape(slope, slope, own.cap)
    return Shape(own.forward_slope, slope, own.cap)


def check_kind(kind: str, slope: float) -> None:
    """Refuse an unknown kind, or a slope that is none.

    Raises:
        OptionError: neither of ``KINDS``, or a slope outside 0 to 1.
    """
    if kind not in KINDS:
        raise OptionError(f"activation {kind!r} is unknown{near_misses(kind, KINDS)}")
    if not 0 <= slope <= 1:
        raise OptionError(f"slope must lie in 0..1, not {slope:g}")
