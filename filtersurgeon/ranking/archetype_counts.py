"""How many archetypes a layer gets: a number, a share of its filters, or the elbow of the error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import numpy as np

from filtersurgeon.archetypes import (
    Archetypes,
    archetypal_analysis,
    archetypal_analysis_batch,
)
from filtersurgeon.archetypes.elbow import ErrorCurve, error_curve
from filtersurgeon.archetypes.problem import Options, Search, Settings
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.filters import FilterLayer, select_layers
from filtersurgeon.networks.devices import AUTO, find_accelerator
from filtersurgeon.registry import read_share

Count = float | int | str
"""A share of the filters as a float, a number as an int, or ``elbow``."""
Wanted = Count | Mapping[str, Count]
"""One of these for all layers, or by glob."""

SHARE = 0.25
ELBOW = "elbow"
_MOST = 2
"""The curve ends at one archetype for so many filters."""


@dataclass(frozen=True)
class Counts:
    """How many archetypes each layer gets.

    Attributes:
        default: of layers that no glob matches.
        by_glob: (glob, count) pairs; the last that matches a layer holds.
    """

    default: Count = SHARE
    by_glob: tuple[tuple[str, Count], ...] = ()

    @classmethod
    def read(cls, wanted: Any) -> Counts:
        """Read one count, or a mapping of globs to counts.

        Raises:
            OptionError: a count that is none.
        """
        if isinstance(wanted, Mapping):
            return cls(by_glob=tuple((str(k), read_count(x)) for k, x in wanted.items()))
        return cls(read_count(wanted))

    def by_layer(self, layers: Sequence[FilterLayer]) -> dict[str, Count]:
        """Give the count of each layer.

        Raises:
            LayerError: a glob matches no layer.
        """
        stated = {x.name: n for glob, n in self.by_glob for x in select_layers(layers, [glob])}
        return {layer.name: stated.get(layer.name, self.default) for layer in layers}

    def stated(self) -> Any:
        """Give it as a history has it."""
        return dict(self.by_glob) if self.by_glob else self.default


_DIGITS = 18  # Python does not read numbers of thousands of digits


def read_count(value: Any) -> Count:
    """Read a number of archetypes: 16, 0.25, ``25%`` or ``elbow``.

    A whole number without a point is a number of archetypes, so 1 is one, and 1.0 is all.

    Raises:
        OptionError: it is none of these.
    """
    text = value.strip() if isinstance(value, str) else value
    if text == ELBOW:
        return ELBOW
    if isinstance(text, str) and text.isdecimal() and len(text) <= _DIGITS:
        text = int(text)
    if isinstance(text, int) and not isinstance(text, bool):
        if text >= 1:
            return text
    elif isinstance(text, float | str):
        try:
            share = read_share(text)
        except ValueError:
            share = 0.0
        if 0 < share <= 1:
            return share
    raise OptionError(
        f"archetypes={value} should be a number such as 16, a share such as 0.25, or elbow"
    )


def read_counts(words: Sequence[str]) -> Wanted:
    """Read words of a command: counts, and ``GLOB=COUNT`` for some layers.

    Raises:
        OptionError: a count that is none.
    """
    found: dict[str, Count] = {}
    for word in words:
        glob, _, count = word.rpartition("=")
        found[glob or "*"] = read_count(count)
    if set(found) == {"*"}:
        return found["*"]
    return {"*": found.pop("*"), **found} if "*" in found else found


def solver_options(n_init: int | None, tol: float, max_iter: int) -> Search:
    """Give the solver's options that are not its defaults.

    Raises:
        OptionError: one that the solver refuses.
    """
    Settings(n_init=n_init, tol=tol, max_iter=max_iter)
    found: Search = {}
    if n_init is not None:
        found["n_init"] = n_init
    if tol != Settings.tol:
        found["tol"] = tol
    if max_iter != Settings.max_iter:
        found["max_iter"] = max_iter
    return found


def share_count(n_filters: int, share: float) -> int:
    """Give the number of archetypes: the share of the filters, rounded, and at least one."""
    return max(1, round(share * n_filters))


def find_count(
    filters: np.ndarray, wanted: Count, *, capped: bool = False, **options: Unpack[Options]
) -> tuple[int, ErrorCurve | None]:
    """Give a layer's number of archetypes.

    Args:
        filters: ``(N, l)``, one per row.
        wanted: from :func:`read_count`.
        capped: take no more than weights plus one, unless a number was stated.
        **options: of the solver, for the elbow.

    Returns:
        The number, and the curve if its elbow was asked for. The curve ends at half of the
        filters, or at weights plus one if that is less.
    """
    n, length = filters.shape
    if isinstance(wanted, int):
        return wanted, None
    if wanted == ELBOW:
        curve = error_curve(filters, max(1, min(n // _MOST, length + 1)), **options)
        return curve.elbow, curve
    count = share_count(n, float(wanted))
    return min(count, length + 1) if capped else count, None


def layer_archetypes(
    layer: FilterLayer, wanted: Count, *, capped: bool = False, **options: Unpack[Options]
) -> tuple[Archetypes, ErrorCurve | None]:
    """Find the archetypes of a layer's filters.

    Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space Provide
    Filter Redundancy Information?*, 2022, Eq. 1.

    Args:
        layer: N filters.
        wanted: how many archetypes; where fewer filters differ, those are it.
        capped: as in :func:`find_count`.
        **options: of the solver.

    Returns:
        The archetypes, and the curve whose elbow was taken, if it was.

    Raises:
        LayerError: weights that are not finite or of a type that is not computed with; names the
            layer.
    """
    filters = layer.matrix()
    try:
        count, curve = find_count(filters, wanted, capped=capped, **options)
        return archetypal_analysis(filters, count, **options), curve
    except LayerError as error:
        raise LayerError(f"layer {layer.name}: {error}") from None


def archetypes_of_layers(
    layers: Sequence[FilterLayer],
    wanted: Mapping[str, Count],
    device: str = AUTO,
    *,
    capped: bool = False,
    **search: Unpack[Search],
) -> Iterator[tuple[FilterLayer, Archetypes, ErrorCurve | None]]:
    """Find the archetypes of the filters of several layers.

    On the CPU each layer is analysed when it is asked for. A GPU analyses layers of as many
    filters and archetypes side by side, all of them when the first is asked for; the errors agree
    with the CPU's to 1 %.

    Args:
        layers: of N filters each.
        wanted: by the layer's name, how many archetypes.
        device: where to compute; ``auto`` is the CPU.
        capped: as in :func:`find_count`.
        **search: options of the solver.

    Yields:
        A layer with what :func:`layer_archetypes` gives of it, in their order.

    Raises:
        LayerError: as :func:`layer_archetypes` raises it.
        OptionError: there is no such device, or it has no float64.
        OutOfMemoryError: a layer alone does not fit into the GPU's memory.
    """
    gpu = find_accelerator(device)
    if gpu is None:
        for layer in layers:
            yield layer, *layer_archetypes(layer, wanted[layer.name], capped=capped, **search)
        return
    options: Options = {**search, "device": gpu}
    rows = [layer.matrix() for layer in layers]
    found = [
        find_count(filters, wanted[layer.name], capped=capped, **options)
        for layer, filters in zip(layers, rows, strict=True)
    ]
    models = archetypal_analysis_batch(rows, [count for count, _ in found], **options)
    for layer, model, (_, curve) in zip(layers, models, found, strict=True):
        yield layer, model, curve
