"""Replace every depthwise kernel by the closest linear transform of a bank member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from dataclasses import replace as altered
from math import prod
from typing import Any

import numpy as np

from filtersurgeon.banks import FilterBank, load_bank
from filtersurgeon.banks.closest import closest_linear, unit_bank
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.dtypes import BITS, Buffer, decode, encode
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import FilterLayer, as_globs, check_finite, find_layers, select_layers


@dataclass(frozen=True)
class LayerReplacement:
    """How well one layer was replaced.

    Attributes:
        name: the module's name.
        n_kernels: number of kernels replaced.
        labels: names of the bank's K members.
        usage: ``(K,)`` how many kernels each member stands for.
        relative_error: ``||new - old|| / ||old||`` over the layer; 0 for a layer of zeros.
    """

    name: str
    n_kernels: int
    labels: tuple[str, ...]
    usage: np.ndarray
    relative_error: float

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        return {
            "name": self.name,
            "kernels": self.n_kernels,
            "relative_error": self.relative_error,
            "members": list(self.labels),
            "usage": self.usage.tolist(),
        }


Observer = Callable[[LayerReplacement], None]


def replace(
    checkpoint: Checkpoint,
    *,
    bank: str | FilterBank = "dog8",
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
    observe: Observer | None = None,
) -> Checkpoint:
    """Replace kernels by their closest linear transform ``a * g + b`` of a bank member ``g``.

    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, App. A.1.

    Args:
        checkpoint: the network.
        bank: a built-in bank's name, a bank file, or a bank.
        layers: globs; None takes all.
        all_spatial: take the kernels of standard convolutions too, each for itself.
        observe: told about each layer when it has been computed, which is when it is read.

    Returns:
        A checkpoint of the same shapes, computed tensor by tensor as it is read.

    Raises:
        LayerError: no layer fits; later, while reading, a layer with non-finite weights.
        OptionError: unknown bank.
    """
    source, layers = load_bank(bank), as_globs(layers)
    chosen = _eligible(checkpoint, layers, all_spatial)
    fitting = {x.tensor: (x, b) for x in chosen if (b := source.at(x.kernel_size))}
    if not fitting:
        raise LayerError(
            f"bank {source.name} has no kernels of the sizes in {checkpoint.name}: {_sizes(chosen)}"
        )
    replaced = {
        tensor: _replaced(layer, its_bank, observe) for tensor, (layer, its_bank) in fitting.items()
    }
    named = {"layers": layers, "all_spatial": all_spatial}
    options = {"bank": source.name, **{key: value for key, value in named.items() if value}}
    entry = HistoryEntry("replace", options, resources=source.resources)
    edited = checkpoint.edited(entry, replaced, f"closest linear transform of {source.name}")
    left = [layer for layer in chosen if layer.tensor not in fitting]
    if not left:
        return edited
    note = f"{len(left)} layers left as they are: {source.name} has no {_sizes(left)} kernels"
    return altered(edited, notes=(*edited.notes, note))


def _eligible(
    checkpoint: Checkpoint, globs: Iterable[str] | None, all_spatial: bool
) -> list[FilterLayer]:
    checkpoint.check_unpacked()
    spatial = [layer for layer in find_layers(checkpoint) if layer.is_spatial]
    chosen = select_layers(spatial, globs)
    eligible = [layer for layer in chosen if all_spatial or layer.kind == "depthwise"]
    for layer in eligible:
        layer.check_type()
    if not eligible:
        remedy = "; --all-spatial takes standard convolutions too" if chosen else ""
        raise LayerError(f"{checkpoint.name} has no depthwise convolution to replace{remedy}")
    return eligible


def _sizes(layers: Iterable[FilterLayer]) -> str:
    return ", ".join(f"{h}x{w}" for h, w in sorted({layer.kernel_size for layer in layers}))


def _replaced(layer: FilterLayer, bank: FilterBank, observe: Observer | None) -> StoredTensor:
    dtype, size = layer.stored.dtype, prod(layer.kernel_size)
    unit = unit_bank(bank.kernels.reshape(len(bank), size))

    def blocks(multiple: int) -> Iterator[Buffer]:
        usage, error, energy = np.zeros(len(bank), np.int64), 0.0, 0.0
        # A block must hold whole kernels, and be what the reader asked for.
        for raw in layer.stored.blocks(np.lcm(multiple, size * BITS[dtype] // 8)):
            kernels = decode(raw, dtype).reshape(-1, size)
            check_finite(kernels, layer.name)
            fit = closest_linear(kernels, unit)
            usage += np.bincount(fit.choice, minlength=len(bank))
            error += float(np.square(fit.kernels - kernels).sum())
            energy += float(np.square(kernels, dtype=np.float64).sum())
            yield _encoded(fit.kernels, dtype, layer.name)
        if observe:
            relative = float(np.sqrt(error / energy)) if energy else 0.0
            observe(LayerReplacement(layer.name, layer.n_kernels, bank.labels, usage, relative))

    return StoredTensor(dtype, layer.shape, blocks)


def _encoded(kernels: np.ndarray, dtype: str, layer: str) -> np.ndarray:
    raw = encode(kernels, dtype)
    if dtype == "F16" and not np.isfinite(decode(raw, dtype)).all():
        raise LayerError(
            f"layer {layer}: a replaced kernel is too large for float16; "
            f"leave the layer out with --layers '!{layer}', or store it in float32"
        )
    return raw
