"""How a layer makes one value: what a page needs to compute it again from its input."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SAME = "same"
FLAT = "flat"
NORM = "norm"
OTHER = ""
"""What a step was given: maps as another step made them, those in one row, those normalised in a
way that the page does not hold, or something else."""


@dataclass(frozen=True)
class Link:
    """What happened to the maps of a panel before another panel reads them.

    Attributes:
        how: ``same``, ``flat`` (all maps in one row, one pixel each), ``norm`` (the same channels,
            with values that the page cannot compute), or empty where that is unknown.
        affine: ``(2, channels)`` float32, the scales and shifts of a batch normalisation on the
            way; None without one.
    """

    how: str
    affine: np.ndarray | None = None


@dataclass(frozen=True)
class Rule:
    """How the values of a panel are computed.

    Attributes:
        how: ``conv`` (linear layers too), ``mean``, ``max``, ``relu``, ``relu6``, ``sum``; empty
            where the page cannot compute them.
        why: the reason, if it cannot.
        window: height and width of a pooling window; None where every output has its own part of
            the input (adaptive pooling).
        stride: rows and columns.
        padding: rows above and columns on the left.
        dilation: rows and columns.
        divisor: of a mean: ``all`` values of the window, those ``inside`` the map, or a number.
        bias: ``(filters,)`` float32, or None.
        affine: ``(2, channels)`` float32 of a batch normalisation that belongs to the layer.
    """

    how: str
    why: str = ""
    window: tuple[int, int] | None = None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    divisor: str = "inside"
    bias: np.ndarray | None = None
    affine: np.ndarray | None = None
