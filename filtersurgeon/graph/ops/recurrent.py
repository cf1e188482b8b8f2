"""Recurrent layers in one operator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from filtersurgeon.graph.ops import declare
from filtersurgeon.graph.record import Record, Term
from filtersurgeon.graph.shapes import Made, like


def _shape(tensor: Tensor, hx: Sequence[Tensor], *rest: Any) -> Made | None:
    """Give the shapes of a long short-term memory, whose weights PyTorch holds twice."""
    if not isinstance(hx, list | tuple) or len(rest) != 7:
        return None
    *_, bidirectional, _batch_first = rest
    features = hx[0].shape[-1] * (2 if bidirectional else 1)
    results = [like(tensor, (*tensor.shape[:-1], features))]
    results += [like(state, state.shape) for state in hx]
    return torch.ops.aten.lstm.input, (tensor, hx, *rest), results


def _work(record: Record) -> list[Term]:
    """Count one product with every matrix at every position."""
    positions: Term = [(size, None) for size in record.inputs[0].shape[:-1]]
    return [[*positions, *seen.lengths] for seen in record.inputs[3:] if len(seen.shape) == 2]


# No rule follows channels through the gates.
declare("lstm", shapes={torch.lstm: _shape}, work=_work)
