"""What a layer's filters look like: their strongest kernels, spectra and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from filtersurgeon.walk.quantise import Maps, quantise

if TYPE_CHECKING:
    from torch import nn

    from filtersurgeon.ranking import Ranking

MOST_KERNELS = 12
"""So many kernels of a filter are kept: those with the largest norms."""
MOST_WHOLE = 160_000
"""All kernels are kept too where a layer has no more weights."""
BINS = 48
"""Of a histogram."""


@dataclass(frozen=True)
class Weights:
    """The filters of one layer.

    Attributes:
        shape: of the weight, ``(filters, inputs per group, height, width)``.
        groups: of the convolution.
        inputs: ``(filters, n)`` uint16, which kernels of each filter are kept, largest norm first.
        kernels: those, ``(filters, n * height, width)``, one scale per filter.
        norms: ``(filters,)`` float32, length of each whole filter.
        spectra: ``(filters, m)`` float32 or None: Eq. 6 of ExplainFix for each filter, the energy
            of every frequency of the DCT; of kernels that are not square Eq. 3, that of every basis
            filter; None for kernels of one weight.
        scores: ``(filters,)`` float32 of the ranking, or None.
        places: ``(filters,)`` place of each filter in the ranking, 0 for the most important.
        counts: ``(48,)`` weights of the layer by value, in equal steps between the largest
            magnitude below zero and above it.
        largest: that magnitude.
        whole: all kernels, ``(filters, inputs * height, width)``, one scale per filter; None where
            ``kernels`` has them all, or where they are too many.
    """

    shape: tuple[int, int, int, int]
    groups: int
    inputs: np.ndarray
    kernels: Maps
    norms: np.ndarray
    spectra: np.ndarray | None
    scores: np.ndarray | None = None
    places: np.ndarray | None = None
    counts: tuple[int, ...] = ()
    largest: float = 0.0
    whole: Maps | None = None


def weights_of(module: nn.Module, channels: int) -> np.ndarray | None:
    """Give a layer's weight as ``(filters, inputs per group, height, width)`` float32.

    None where it has none with as many filters as it makes channels, such as a transposed
    convolution.
    """
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim not in (2, 3, 4) or getattr(module, "transposed", False):
        return None
    values: np.ndarray = weight.detach().float().cpu().numpy()
    if len(values) != channels or not np.isfinite(values).all():
        return None
    missing = (1,) * (4 - values.ndim)
    shape = values.shape if values.ndim == 4 else (*values.shape[:2], *missing, *values.shape[2:])
    return values.reshape(shape)


def describe(
    name: str, values: np.ndarray, groups: int = 1, ranking: Ranking | None = None
) -> Weights:
    """Describe every filter of a layer.

    Args:
        name: the module's.
        values: ``(filters, inputs per group, height, width)``.
        groups: of the convolution.
        ranking: whose scores are added where it knows the layer.
    """
    filters, _, height, width = values.shape
    norms = np.sqrt(np.square(values, dtype=np.float64).sum((2, 3)))
    inputs = np.argsort(-norms, axis=1, kind="stable")[:, :MOST_KERNELS]
    kept = np.take_along_axis(values, inputs[:, :, None, None], axis=1)
    kernels = quantise(kept.reshape(filters, -1, width))
    scores, places = _read_scores(name, filters, ranking)
    lengths = np.sqrt(np.square(norms).sum(1)).astype(np.float32)
    largest = float(np.abs(values).max())
    counts, _ = np.histogram(values, BINS, (-largest or -1.0, largest or 1.0))
    whole = None
    if values.shape[1] > MOST_KERNELS and values.size <= MOST_WHOLE:
        whole = quantise(values.reshape(filters, -1, width))
    return Weights(
        (filters, values.shape[1], height, width), groups, inputs.astype(np.uint16), kernels,
        lengths, _spectra(values), scores, places, tuple(counts.tolist()), largest, whole,
    )  # fmt: skip


def _spectra(values: np.ndarray) -> np.ndarray | None:
    from filtersurgeon.explain.basis import separable_basis
    from filtersurgeon.explain.spectrum import Spectrum

    filters, inputs, height, width = values.shape
    if height * width == 1:
        return None
    basis = separable_basis("dct", (height, width))
    found = []
    for filter_ in values.reshape(filters, inputs, -1):
        e2 = np.abs(filter_ @ basis.vectors.T).mean(0)
        one = Spectrum("", basis, inputs, e2)
        found.append(one.e2 if one.e0 is None else one.e0)
    return np.array(found, np.float32)


def _read_scores(
    name: str, filters: int, ranking: Ranking | None
) -> tuple[np.ndarray | None, np.ndarray | None]:
    known: Mapping[str, object] = ranking.layers if ranking else {}
    layer = ranking.layers[name] if ranking and name in known else None
    if layer is None or len(layer.scores) != filters:
        return None, None
    places = np.empty(filters, np.uint16)
    places[layer.order] = np.arange(filters)
    return layer.scores.astype(np.float32), places
