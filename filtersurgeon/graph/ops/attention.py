"""Attention in one operator."""

from __future__ import annotations

from torch import Tensor

from filtersurgeon.graph.labels import Labels, Step
from filtersurgeon.graph.ops import rule


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "_scaled_dot_product_attention_math_for_mps",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "scaled_dot_product_attention",
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
