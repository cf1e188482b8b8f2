"""What a prune is asked to do, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.pruning.target import Target, read_target
from filtersurgeon.registry import COMPENSATIONS

MODES = ("channelprune", "exact")
BORDERS = ("keep", "fold")
FILLS = ("zero", "fillzero", "restore")


@dataclass(frozen=True)
class PruneSettings:
    """How to prune.

    Attributes:
        sparsity: share of kernels to zero, or of each layer's filters to cut; 0 <= share < 1.
        target: the size to reach, instead of a sparsity.
        per_layer: cut a share of every layer's filters.
        method: how kernels are scored, or filters ranked.
        options: the method's own.
        mode: which groups go once kernels are zeroed.
        border: in exact mode, what becomes of channels whose constant is felt differently at
            padded borders.
        fill: what becomes of zeroed kernels that are not cut.
        compensate: how the layers that read cut channels make up for them; ``none`` or the name of
            a compensation.
        min_channels: how many channels every layer keeps.
        round_to: widths are rounded up to a multiple.
        layers: globs; only filters of these layers are scored.
        seed: of whatever is drawn.

    Raises:
        OptionError: a value that has no meaning.
    """

    sparsity: float | None = None
    target: Target | None = None
    per_layer: bool = False
    method: str = "l2"
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "channelprune"
    border: str = "keep"
    fill: str = "zero"
    compensate: str = "none"
    min_channels: int = 1
    round_to: int = 1
    layers: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.target is None):
            raise OptionError("say how much to cut: `sparsity` or `target`, one of them")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise OptionError(f"`sparsity` {self.sparsity} should be at least 0 and below 1")
        words = (
            ("mode", self.mode, MODES),
            ("border", self.border, BORDERS),
            ("fill", self.fill, FILLS),
            ("compensation", self.compensate, ("none", *COMPENSATIONS.names())),
        )
        for name, value, known in words:
            if value not in known:
                raise OptionError(f"no {name} called {value!r}{near_misses(value, known)}")
        for name, number in (("min-channels", self.min_channels), ("round-to", self.round_to)):
            if number < 1:
                raise OptionError(f"--{name} {number} should be at least 1")
        if self.per_layer and self.fill != "zero":
            raise OptionError("`fill` is for zeroed kernels, and `per_layer` zeroes none")
        if self.mode == "exact" and (self.per_layer or self.fill == "restore"):
            raise OptionError(
                "`mode='exact'` cuts what zeroed kernels leave unused; it goes with "
                "neither `per_layer` nor `fill='restore'`"
            )
        if self.border != "keep" and self.mode != "exact":
            raise OptionError("`border` is for `mode='exact'`")
        if self.compensate != "none" and self.mode == "exact":
            raise OptionError(
                "`compensate` has nothing to make up for: `mode='exact'` loses nothing"
            )
        if self.compensate != "none" and self.fill == "fillzero":
            raise OptionError("`compensate` would be undone by `fill='fillzero'`; train instead")


def read_amount(sparsity: float | None, target: str | None) -> dict[str, Any]:
    """Turn the words for how much to cut into settings."""
    return {"sparsity": sparsity, "target": None if target is None else read_target(target)}
