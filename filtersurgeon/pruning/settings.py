"""What a prune is asked to do, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from filtersurgeon.errors import OptionError, as_percentage, near_misses
from filtersurgeon.learn.latency import check_runtime
from filtersurgeon.pruning.target import Target, read_target
from filtersurgeon.registry import COMPENSATIONS, read_share

MODES = ("channelprune", "exact")
BORDERS = ("keep", "fold")
FILLS = ("zero", "fillzero", "restore")
ALLOCATIONS = ("measured", "uniform")
STREAMS = ("keep", "cut")
RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class PruneSettings:
    """How to prune.

    Attributes:
        sparsity: share of kernels to zero, or of each layer's filters to cut; 0 <= share < 1.
        target: the size to reach, instead of a sparsity.
        per_layer: cut a share of every layer's filters.
        ratios: (glob, share) pairs: layers that lose another share than ``sparsity``; of several
            globs that match a layer, the last holds.
        method: how kernels are scored, or filters ranked.
        options: the method's own.
        mode: which groups go once kernels are zeroed.
        border: in exact mode, ``keep`` or ``fold`` channels that cannot be folded exactly because
            of zero padding.
        fill: values of zeroed kernels that are not cut.
        compensate: how the layers that read cut channels make up for them; ``none`` or the name of
            a compensation.
        min_channels: how many channels every layer keeps.
        round_to: widths are rounded up to a multiple; None leaves it to the way of cutting.
        layers: globs; only filters of these layers are scored.
        keep_frozen: leave alone what has a frozen parameter.
        seed: random seed.
        allocate: how a target is shared out among the layers: ``measured`` or ``uniform``; None
            for cuts by scores of kernels or ranks of filters.
        streams: ``cut`` residual streams as well, or ``keep`` them whole; None cuts them only
            where a target needs it or less is lost that way; with ``allocate``.
        planned: a plan says how much is cut, in place of sparsity and target.
        select: what chooses the channels of a layer, ``reconstruction`` or a ranking method; with
            ``allocate``.
        runtime: what a latency is measured in, ``torch`` or ``onnxruntime``.

    Raises:
        OptionError: a value that has no meaning.
    """

    sparsity: float | None = None
    target: Target | None = None
    per_layer: bool = False
    ratios: tuple[tuple[str, float], ...] = ()
    method: str = "l2"
    options: Mapping[str, Any] = field(default_factory=dict)
    mode: str = "channelprune"
    border: str = "keep"
    fill: str = "zero"
    compensate: str = "none"
    min_channels: int = 1
    round_to: int | None = None
    layers: tuple[str, ...] = ()
    keep_frozen: bool = False
    seed: int = 0
    allocate: str | None = None
    streams: str | None = None
    select: str = RECONSTRUCTION
    planned: bool = False
    runtime: str = "torch"

    def __post_init__(self) -> None:
        if self.planned:
            if self.sparsity is not None or self.target is not None:
                raise OptionError("a plan says how much to cut; leave `sparsity` and `target` out")
        elif self.ratios:
            self._check_ratios()
        elif (self.sparsity is None) == (self.target is None):
            raise OptionError("pass exactly one of `sparsity` and `target`")
        if self.sparsity is not None and not 0 <= self.sparsity < 1:
            raise OptionError(
                f"`sparsity` {self.sparsity:g} should be at least 0 and below 1"
                f"{as_percentage(self.sparsity)}"
            )
        words = (
            ("mode", self.mode, MODES),
            ("border", self.border, BORDERS),
            ("fill", self.fill, FILLS),
            ("compensation", self.compensate, ("none", *COMPENSATIONS.names())),
        )
        for name, value, known in words:
            if value not in known:
                raise OptionError(f"no {name} called {value!r}{near_misses(value, known)}")
        for name, number in (
            ("min_channels", self.min_channels),
            ("round_to", 1 if self.round_to is None else self.round_to),
        ):
            if number < 1:
                raise OptionError(f"`{name}` {number} should be at least 1")
        self._check_allocation()
        check_runtime(self.runtime)
        if self.runtime != "torch" and (self.target is None or self.target.quantity != "latency"):
            raise OptionError("`runtime` is what `target='latency=0.5x'` is measured in")
        if self.per_layer and self.fill != "zero":
            raise OptionError("`fill` is for zeroed kernels, and `per_layer` zeroes none")
        if self.mode == "exact" and (self.per_layer or self.fill == "restore"):
            raise OptionError(
                "`mode='exact'` cuts what zeroed kernels leave unused; leave out "
                "`per_layer` or `fill='restore'`"
            )
        if self.border != "keep" and self.mode != "exact":
            raise OptionError("`border` is for `mode='exact'`")
        if self.compensate != "none" and self.mode == "exact":
            raise OptionError(
                "`compensate` does not apply to `mode='exact'`, which keeps the outputs"
            )
        if self.compensate != "none" and self.fill == "fillzero":
            raise OptionError(
                "`compensate` would be undone by `fill='fillzero'`; fine-tune instead"
            )

    def _check_ratios(self) -> None:
        if self.target is not None:
            raise OptionError("`ratios` set the share of each layer; leave `target` out")
        for glob, share in self.ratios:
            if not 0 <= share < 1:
                raise OptionError(
                    f"`ratios`: {glob}={share:g} should be at least 0 and below 1"
                    f"{as_percentage(share)}"
                )

    def _check_allocation(self) -> None:
        if self.streams not in (None, *STREAMS):
            raise OptionError(f"`streams` {self.streams!r} should be keep or cut")
        if self.allocate is None:
            return
        if self.allocate not in ALLOCATIONS:
            raise OptionError(f"`allocate` {self.allocate!r} should be measured or uniform")
        if self.target is None and not self.planned:
            raise OptionError("`allocate` shares out a `target`; give one, such as macs=0.5x")
        if self.per_layer or self.mode != "channelprune" or self.fill != "zero":
            raise OptionError(
                "`allocate`, `select` and `streams` cut channels to a `target`; leave out "
                "`per_layer`, `mode` or `fill`"
            )


def read_amount(sparsity: float | None, target: str | None) -> dict[str, Any]:
    """Turn the words for how much to cut into settings."""
    return {"sparsity": sparsity, "target": None if target is None else read_target(target)}


def read_ratios(ratios: Mapping[str, Any] | None) -> tuple[tuple[str, float], ...]:
    """Turn shares by glob into pairs.

    Raises:
        OptionError: a share is no number.
    """
    if ratios is not None and not isinstance(ratios, Mapping):
        raise OptionError(f"`ratios` {ratios!r} should be shares by glob, such as {{'conv1': 0.3}}")
    pairs = []
    for glob, share in (ratios or {}).items():
        try:
            pairs.append((str(glob), read_share(share)))
        except (TypeError, ValueError):
            raise OptionError(f"`ratios`: {glob}={share} is not a number") from None
    return tuple(pairs)
