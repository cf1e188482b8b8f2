"""Cuts and refits written into the tensors of a network whose shapes stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.pruning.reconstruction.calibration import Bench
from filtersurgeon.pruning.reconstruction.rows import Part

Fits = dict[tuple[str, int], dict[str, list[tuple[Part, Tensor, Tensor, Tensor]]]]
"""Bundle and number of a cut -> its reading layers' new maps, as :func:`put_fit` takes them."""


def silence(bench: Bench, tensors: dict[str, Tensor], groups: NDArray[np.int64]) -> set[str]:
    """Put zeros wherever groups of channels have a place in the network's tensors.

    Args:
        bench: the network.
        tensors: by name; those that change are exchanged for others.
        groups: which ones go.

    Returns:
        The names of the tensors that changed.
    """
    graph = bench.opened.graph
    gone = np.zeros(len(graph.groups), bool)
    gone[groups] = True
    changed = set()
    for name, labels in graph.trace.slots.items():
        for axis, ids in enumerate(labels):
            if ids is None or not tensors[name].is_floating_point():
                continue
            index = np.flatnonzero((ids >= 0) & gone[graph.groups.of[ids]])
            if len(index):
                if name not in changed:
                    tensors[name] = tensors[name].clone()
                    changed.add(name)
                tensors[name].index_fill_(axis, torch.from_numpy(index).to(tensors[name].device), 0)
    return changed


def put_fit(
    bench: Bench,
    tensors: dict[str, Tensor],
    layer: str,
    parts: Sequence[tuple[Part, Tensor, Tensor, Tensor]],
) -> set[str]:
    """Give a layer its new map and constant.

    Tensors of the original network are exchanged for others, copies are written to.
    """
    name = bench.survey.readers[layer].layer.tensor
    weight = tensors[name]
    if weight is bench.tensors[name] or not weight.is_contiguous():
        weight = weight.clone(memory_format=torch.contiguous_format)
    constants = weight.new_zeros(bench.survey.readers[layer].layer.filters_first(weight).shape[0])
    for part, columns, found, constant in parts:
        part.put(weight, found, columns)
        constants[part.outputs] = constant
    tensors[name] = weight
    if layer not in bench.places:
        return {name}
    place, sign = bench.places.place(layer)
    tensors[place] = tensors[place] + sign * constants
    return {name, place}
