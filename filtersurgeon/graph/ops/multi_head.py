"""``torch.nn.MultiheadAttention`` in one operator.

Its heads together are as wide as its queries, so that a head and a block of the query's channels go
together. PyTorch takes it to pieces with numbers that are worked out from both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from filtersurgeon.graph.labels import Axis, Ids, Labels, Step
from filtersurgeon.graph.ops import follow_nothing, mix_all, operator
from filtersurgeon.graph.ops.attention import run_with_nan
from filtersurgeon.graph.ops.linear import contract
from filtersurgeon.graph.record import Record, Term
from filtersurgeon.graph.shapes import Made, like

_KINDS = 3
"""Queries, keys and values."""


def _shape(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    heads: int,
    in_weight: Tensor | None,
    in_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_weight: Tensor,
    out_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    **_: bool,  # that the mask is causal, which it tells itself
) -> Made | None:
    """Give the shapes of the output and of the weights of attention."""
    separate = [q_proj_weight, k_proj_weight, v_proj_weight]
    given = separate if use_separate_proj_weight else [in_weight]
    weights = [weight for weight in given if weight is not None]
    if len(weights) < len(given) or static_k is not None or static_v is not None:
        return None
    if (dropout_p and training) or query.ndim not in (2, 3):
        return None
    rows = [width] * _KINDS if use_separate_proj_weight else [_KINDS * width]
    columns = [tensor.shape[-1] for tensor in (query, key, value)]
    wanted = [(rows[at], columns[at]) for at in range(len(weights))]
    fits = [tuple(weight.shape) for weight in weights] == wanted
    fits &= use_separate_proj_weight or len(set(columns)) == 1
    fits &= in_bias is None or len(in_bias) == _KINDS * width
    fits &= all(bias is None or bias.shape[-1] == width for bias in (bias_k, bias_v))
    fits &= query.shape[-1] == width == out_weight.shape[1] and width % heads == 0
    fits &= key.shape[:-1] == value.shape[:-1] and query.shape[1:-1] == key.shape[1:-1]
    if not fits or (out_bias is not None and len(out_bias) != len(out_weight)):
        raise RuntimeError("the weights of multi-head attention do not fit")
    batch, places = tuple(query.shape[1:-1]), key.shape[0] + (bias_k is not None) + add_zero_attn
    if attn_mask is not None:
        each = (*batch, 1)[0] * heads
        if tuple(attn_mask.shape[:-2]) not in ((), (each,)):
            raise RuntimeError("the mask of multi-head attention does not fit")
    result = like(query, (*query.shape[:-1], len(out_weight)))
    spread = (*batch, *(() if average_attn_weights else (heads,)), query.shape[0], places)
    how = (heads, average_attn_weights)
    last = (out_weight, out_bias, [bias_k, bias_v], key_padding_mask, attn_mask)
    args = (query, key, value, weights, *how, [in_bias], *last)
    found = [result, like(query, spread) if need_weights else None]
    return torch.ops.aten._native_multi_head_attention.default, args, found


def _work(record: Record) -> list[Term]:
    """Count the products with the matrices, of queries with keys, and of weights with values."""
    query, key, value = record.inputs[:3]
    width, places = query.lengths[-1], key.lengths[0]
    compared = [*query.lengths, places]
    projected = [[*seen.lengths, width] for seen in (query, key, value)]
    return [*projected, compared, compared, [*query.lengths, record.results[0].lengths[-1]]]


def _has_silent_output(step: Step, made: Sequence[Labels]) -> bool:
    """Check the last matrix; the weights of a head without channels are not zero."""
    if not isinstance(step.args[3], list) or any(axis is not None for axis in made[0][:-1]):
        return False
    averaged, (out_weight, out_bias) = step.args[5], step.args[7:9]
    shown = len(made) > 1 and not averaged
    return not shown and step.silent(out_weight) and (out_bias is None or step.silent(out_bias))


@operator(
    "_native_multi_head_attention",
    shapes={functional.multi_head_attention_forward: _shape},
    zero_preserving=_has_silent_output,
    work=_work,
    sums=mix_all,
    run_with_nan=run_with_nan,
)
def multi_head_attention(step: Step) -> list[Labels]:
    """Tie each head to a block of the channels that the queries have."""
    if not isinstance(step.args[3], list):  # called by itself, with PyTorch's own arguments
        return follow_nothing(step)
    query, key, value, weights, heads, averaged, (in_bias,), out_weight, out_bias, *rest = step.args
    asked, offered, given = (step.labels(tensor) for tensor in (query, key, value))
    for at, tensor in enumerate((query, key, value)):
        contract(step, tensor, -1, weights[at % len(weights)], 1)
    vectors = [asked[-1]]
    for made in (*weights, in_bias):
        if made is not None:
            vectors += _thirds(step.labels(made)[0], len(made) // query.shape[-1])
    outputs, inner = step.labels(out_weight)
    if query.shape[-1] > 1:
        step.add_up(inner, out_weight)
    vectors.append(inner)
    vectors += [step.labels(bias)[-1] for bias in rest[0] if bias is not None]
    head = _tie_heads(step, vectors, heads)
    if out_bias is not None:
        outputs = step.tie(outputs, step.labels(out_bias)[0])
    for labels in (offered, given):
        step.pin(labels[0], "attention is spread over it")
    _meet_masks(step, rest[1:], (*asked[:-1], *offered[:-1], *given[:-1]), head)
    operands = [(tensor.shape[1:-1], labels[1:-1]) for tensor, labels in
                ((query, asked), (key, offered), (value, given))]  # fmt: skip
    batch = step.broadcast(operands, query.ndim - 2)
    results: list[Labels] = [(asked[0], *batch, outputs)]
    if len(step.results) > 1:
        if averaged:
            step.pin_if_read(step.results[1], head, "the weights of attention average its heads")
        results.append((*batch, *(() if averaged else (head,)), asked[0], None))
    _name_lengths(step, asked[-1], offered[-1], given[-1], head)
    return results


def _thirds(rows: Axis, parts: int) -> list[Axis]:
    """Part the rows of a packed matrix into those of queries, keys and values."""
    return [None] * parts if rows is None else list(np.split(rows, parts))


def _tie_heads(step: Step, vectors: Sequence[Axis], heads: int) -> Axis:
    """Tie all channels of each head; give a label for every head."""
    text = "the channels of a query are as many as those of all heads of attention"
    reason = step.reason(text)
    first: Axis = None
    for ids in vectors:
        if ids is None:
            continue
        table: Ids = ids.reshape(heads, -1).T
        one = step.constraints.tie_rows(table, reason)
        first = one if first is None else step.tie(first, one, text)
    if any(ids is None for ids in vectors):
        step.pin(first, text)
    return first


def _meet_masks(
    step: Step, masks: Sequence[Tensor | None], positions: Sequence[Axis], head: Axis
) -> None:
    """Pin what a mask has values for: positions, and heads where each has its own."""
    text = "meets a mask of attention"
    found = [mask for mask in masks if mask is not None]
    met = [axis for mask in found for axis in step.labels(mask)]
    for axis in (*met, *positions) if found else ():
        step.pin(axis, text)
    if any(mask.ndim == 3 for mask in found):
        step.pin(head, text)


def _name_lengths(step: Step, query: Axis, key: Axis, value: Axis, head: Axis) -> None:
    lengths = {"embed_dim": query, "kdim": key, "vdim": value, "num_heads": head}
    step.named.update({name: ids for name, ids in lengths.items() if ids is not None})
