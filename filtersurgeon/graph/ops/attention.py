"""Attention in one operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import Sum, operator
from filtersurgeon.graph.record import Record, Term
from filtersurgeon.graph.shapes import Made, like


def _shape(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **_: Any
) -> Made:
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise RuntimeError("queries, keys and values do not fit")
    shape = (*query.shape[:-1], value.shape[-1])
    args = (query, key, value, attn_mask)
    return torch.ops.aten.scaled_dot_product_attention.default, args, [like(query, shape)]


def _work(record: Record) -> list[Term]:
    """Count two products: of queries with keys, and of their weights with the values."""
    query, key = record.inputs[:2]
    places = key.lengths[-2]
    return [[*query.lengths, places], [*record.results[0].lengths, places]]


def _sum(_record: Record) -> Sum:
    return Sum()


def run_with_nan(func: Any, args: Any, kwargs: Any) -> Any:
    """Let every result depend on every argument: kernels that compare values may lose a NaN."""
    return tree_map_only(Tensor, lambda t: torch.full_like(t, torch.nan), func(*args, **kwargs))


@operator(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "scaled_dot_product_attention",
    shapes={functional.scaled_dot_product_attention: _shape},
    work=_work,
    sums=_sum,
    run_with_nan=run_with_nan,
)
def attention(step: Step) -> list[Labels]:
    """Compare queries with keys (whose length sets the scale) and mix the values."""
    query, key, value = (step.labels(tensor) for tensor in step.args[:3])
    if step.kwargs.get("scale") is None:
        step.pin(query[-1], "the length of an attention head sets its scale")
        step.pin(key[-1], "the length of an attention head sets its scale")
    else:
        step.add_up(step.tie(query[-1], key[-1]), *step.args[:2])
    for labels in (key, value):
        step.pin(labels[-2], "attention is spread over it")
    shapes = [tensor.shape[:-2] for tensor in step.args[:3]]
    heads = [labels[:-2] for labels in (query, key, value)]
    if step.kwargs.get("enable_gqa"):
        for axis in (axis for labels in heads for axis in labels):
            step.pin(axis, "several heads share one")
        return [(None,) * tensor.ndim for tensor in step.results]
    mask = step.arg(3, "attn_mask")
    if isinstance(mask, Tensor):
        bias = step.labels(mask)
        for axis in bias[-2:]:
            step.pin(axis, "attention is spread over it")
        step.pin(query[-2], "meets a mask of attention")
        shapes.append(mask.shape[:-2])
        heads.append(bias[:-2])
    stacks = step.broadcast(list(zip(shapes, heads, strict=True)), len(shapes[0]))
    rest: list[Labels] = [(None,) * tensor.ndim for tensor in step.results[1:]]
    return [(*stacks, query[-2], value[-1]), *rest]
