"""Add the outgoing weights of a removed filter to kept filters that approximate it; no images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from filtersurgeon.archetypes import convex_coefficients
from filtersurgeon.graph.follow import normalisations
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.labels import Ids
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.pruning.compensation.readers import Reader, Tensors, as_stored, current, readers
from filtersurgeon.pruning.compensation.second_moments import (
    Floats,
    makers_of,
    occurrences,
    second_moments,
)


def merge(opened: OpenedModel, keep: Mask, changed: Tensors) -> dict[str, Tensor]:
    """Let kept filters stand in for the removed ones that are convex combinations of them.

    If a filter is ``w_j = sum_k a_k w_k`` with ``a_k >= 0`` and ``sum_k a_k = 1``, so are the
    values that it makes, and after an activation nearly so; every layer that reads channel j then
    reads the same from the others when its weights become ``W_k + a_k W_j``. For filters that
    are no such combination, the closest one is taken, times the factor >= 0 that brings it
    closest: little is handed over where nothing is similar.

    Closeness is that of the values which the filters make (see ``second_moments.py``): filters as
    they are on white inputs, times the scale of the batch normalisation behind them, with its
    shift. This is exact for a copy, and where no activation comes between; it is an approximation
    - through an activation: ReLU of a convex combination is at most the combination of ReLUs,
    equal where all have one sign;
    - through a depthwise layer, whose kernels must be alike as well;
    - through a normalisation that does not follow the filter directly, as in DenseNet or
    ConvNeXt: it is not looked at.
    Source: the positional-relevance hypothesis of Thakur, Abrol and Sharma, *Does Geometric
    Structure in Convolutional Filter Space Provide Filter Redundancy Information?*, 2022.

    Args:
        opened: the network.
        keep: group -> whether it is kept.
        changed: tensors with other values than the network's, in its original shapes.

    Returns:
        ``changed`` with the weights of every convolution and linear layer that reads removed
        channels, but for grouped and transposed convolutions.
    """
    network, of = opened.network, opened.graph.groups.of
    layers, found = opened.layers, dict(changed)
    norms = normalisations(network, opened.graph.trace)
    able = [r for r in readers(opened, keep) if r.layer.groups == 1 and not r.layer.transposed]
    for bundle in opened.graph.groups.bundles:
        kept = keep[bundle.groups]
        if kept.all() or not kept.any():
            continue
        makers = makers_of(network, layers, norms, of, bundle.groups)
        moments = None if makers is None else second_moments(makers)
        if moments is None:
            continue
        shares = mixture(moments, kept)
        for reader in able:
            _hand_over(opened, reader, bundle.groups, kept, shares, found)
    return found


def mixture(moments: Floats, kept: Mask) -> Floats:
    """Model removed channels by kept ones.

    Args:
        moments: second moments of all channels, (channels, channels).
        kept: (channels,), which are kept.

    Returns:
        Shape (kept, removed), non-negative.
    """
    values, vectors = np.linalg.eigh(moments)
    points = vectors * np.sqrt(values.clip(min=0.0))  # whose inner products are the moments
    gone = points[~kept]
    shares = convex_coefficients(gone, points[kept])
    closest = shares.T @ points[kept]
    length = np.einsum("gl,gl->g", closest, closest)
    along = np.einsum("gl,gl->g", closest, gone)
    found: Floats = shares * np.where(
        length > 0, along / np.where(length > 0, length, 1.0), 0.0
    ).clip(min=0.0)
    return found


def _hand_over(
    opened: OpenedModel,
    reader: Reader,
    groups: Ids,
    kept: Mask,
    shares: Floats,
    found: dict[str, Tensor],
) -> None:
    """Add a layer's weights for removed channels to those for kept ones, in place."""
    places = occurrences(reader.members, groups)
    if places is None or not len(places):
        return
    tensor = reader.layer.tensor
    before = current(opened, tensor, found)
    weight = before.double()
    to, away = (torch.from_numpy(places[:, side]) for side in (kept, ~kept))
    lost = weight[:, away]  # (out, occurrences, removed, ...)
    weight[:, to] += torch.einsum("otg...,kg->otk...", lost, torch.from_numpy(shares))
    found[tensor] = as_stored(weight, before)
