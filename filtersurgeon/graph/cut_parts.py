"""Weights in parts of which channels are cut: how the parts change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from filtersurgeon.checkpoint import StoredTensor
from filtersurgeon.checkpoint.tensor import COMPUTABLE
from filtersurgeon.checkpoint.weight_parts import (
    MASK,
    NORM,
    SPECTRAL,
    WHOLE_NUMBERS,
    Parts,
    WeightParts,
    norm_over,
    numbers_of,
    output_axes,
    spectral_image,
)

Kept = Mapping[int, np.ndarray]
_CLOSE = 1e-6  # relative: rounding of float32
_LEAST_SHARE = 1e-3


def cut_parts(
    parts: WeightParts, kept: Kept, weight: np.ndarray, whole: np.ndarray
) -> dict[str, StoredTensor] | None:
    """Give the parts of a weight of which channels are cut, by name.

    Parts keep the values that are kept, as far as these go with the weight: the norms follow from
    it. A cut spectral normalisation gives the weight in evaluation mode; in training it sets the
    scale anew, as it always does.

    Args:
        parts: what the weight is stored in.
        kept: the indices that are kept, by axis of the weight; other axes stay whole.
        weight: the pruned weight in float64, which may have other values, too.
        whole: the weight before, in float64.

    Returns:
        None where the parts cannot hold it, or not as exactly as one tensor does.
    """
    make = _CUTS.get(parts.kind)
    if make is None or any(part.dtype in ("F16", "BF16") for part in parts.parts.values()):
        return None
    numbers = {role: numbers_of(part, parts) for role, part in parts.parts.items()}
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        made = make(numbers, kept, weight, whole)
    if made is None or not all(np.isfinite(values).all() for values in made.values()):
        return None
    return {name: _store(made[role], parts.parts[role].dtype) for role, name in parts.names.items()}


def _take(values: np.ndarray, kept: Kept) -> np.ndarray:
    for axis, indices in kept.items():
        if axis < values.ndim and values.shape[axis] > 1:
            values = values.take(indices, axis)
    return values


def _cut_norm(
    parts: Parts, kept: Kept, weight: np.ndarray, _whole: np.ndarray
) -> dict[str, np.ndarray]:
    v, g = _take(parts["v"], kept), _take(parts["g"], kept)
    norm, length = norm_over(weight, g.shape), norm_over(v, g.shape)
    axes = tuple(k for k in range(v.ndim) if not g.shape or g.shape[k] == 1)
    sign = np.where((weight * v).sum(axis=axes, keepdims=True) < 0, -1.0, 1.0)
    close = np.abs(v * (sign * norm / length) - weight) <= _CLOSE * norm
    same = close.all(axis=axes, keepdims=True)
    usable = (norm == 0) & (length > 0)
    own = np.where(norm == 0, 1.0, weight)
    signed = np.where(same, sign * norm, norm).reshape(g.shape)
    return {
        "g": np.where(np.abs(signed - g) <= _CLOSE * np.abs(g), g, signed),
        "v": np.where(same | usable, v, own),
    }


def _cut_mask(
    parts: Parts, kept: Kept, weight: np.ndarray, _whole: np.ndarray
) -> dict[str, np.ndarray] | None:
    values, mask = _take(parts["orig"], kept), _take(parts["mask"], kept)
    if weight[mask == 0].any():
        return None
    return {"orig": np.where(mask != 0, weight / mask, values), "mask": mask}


def _cut_spectral(
    parts: Parts, kept: Kept, weight: np.ndarray, whole: np.ndarray
) -> dict[str, np.ndarray] | None:
    orig, scale = parts["orig"], float((parts["orig"] * whole).sum() / np.square(whole).sum())
    axis = min(output_axes(parts), key=lambda k: abs(parts["u"] @ spectral_image(parts, k) - scale))
    others = {k + 1 if k < axis else k: indices for k, indices in kept.items() if k != axis}
    columns = parts["v"].reshape(1, *np.moveaxis(orig, axis, 0).shape[1:])
    u = _take(parts["u"], {0: kept[axis]} if axis in kept else {})
    v = _take(columns, others).ravel()
    values = _take(orig, kept)
    if (np.abs(values / scale - weight) > _CLOSE * np.abs(weight)).any():
        values, scale = weight, 1.0
    found = float(u @ spectral_image({"orig": values, "u": u, "v": v}, axis))
    if abs(found) < _LEAST_SHARE * np.linalg.norm(values) * np.linalg.norm(u) * np.linalg.norm(v):
        return None
    factor = scale / found
    return {"orig": values, "u": u if abs(factor - 1) <= _CLOSE else u * factor, "v": v}


_CUTS: Mapping[str, Callable[..., dict[str, np.ndarray] | None]] = {
    NORM: _cut_norm,
    MASK: _cut_mask,
    SPECTRAL: _cut_spectral,
}


def _store(values: np.ndarray, dtype: str) -> StoredTensor:
    if dtype in COMPUTABLE:
        return StoredTensor.from_array(values, dtype)
    data = np.ascontiguousarray(values, WHOLE_NUMBERS[dtype]).reshape(-1).view(np.uint8)
    return StoredTensor.from_bytes(dtype, values.shape, lambda: data)
