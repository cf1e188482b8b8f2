"""The kernels of one size from any number of checkpoints: a model bank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from filtersurgeon.banks.bank import Size
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import FilterLayer, find_layers, select_layers

_CONSTANT = 1e-6  # spread below this share of a kernel's size is rounding


@dataclass(frozen=True)
class KernelCollection:
    """Kernels of one size.

    Attributes:
        size: their height and width.
        kernels: ``(N, h * w)`` float64, as they are in the networks.
        layers: number of layers that they come from.
        digests: of the checkpoints that they come from.
    """

    size: Size
    kernels: np.ndarray
    layers: int
    digests: tuple[str, ...]

    def normalised(self) -> np.ndarray:
        """Give the kernels mean-free and of unit norm, ``(M, h * w)``, constant ones left out.

        Raises:
            LayerError: all are constant.
        """
        centred = self.kernels - self.kernels.mean(axis=1, keepdims=True)
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        varied = norms[:, 0] > _CONSTANT * np.linalg.norm(self.kernels, axis=1)
        if not varied.any():
            raise LayerError("every kernel is constant: there is nothing to learn")
        unit: np.ndarray = centred[varied] / norms[varied]
        return unit

    def sign_aligned(self) -> np.ndarray:
        """Give the normalised kernels with signs that bring them to one side.

        A linear transform changes signs freely, so a kernel and its negative are one. The side is
        that of the kernels' first principal direction.
        """
        unit = self.normalised()
        direction = np.linalg.eigh(unit.T @ unit)[1][:, -1]
        direction = direction * np.sign(direction[np.abs(direction).argmax()])
        aligned: np.ndarray = np.where((unit @ direction < 0)[:, None], -unit, unit)
        return aligned


def collect_kernels(
    checkpoints: Sequence[Checkpoint],
    size: Size | None = None,
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
) -> KernelCollection:
    """Collect the depthwise kernels of one size.

    Args:
        checkpoints: at least one.
        size: height and width; None where all have the same.
        layers: globs; None takes all.
        all_spatial: take the kernels of standard convolutions too.

    Raises:
        LayerError: there are none of that size, or of several sizes and none was chosen; a weight
            is not finite.
    """
    found = [x for each in checkpoints for x in _layers(each, layers, all_spatial)]
    sizes = kernel_sizes(checkpoints, layers, all_spatial)
    names = ", ".join(checkpoint.name for checkpoint in checkpoints)
    remedy = "" if all_spatial else "; `all_spatial` takes standard convolutions too"
    known = ", ".join(f"{h}x{w}" for h, w in sizes)
    if size is None and len(sizes) > 1:
        raise LayerError(f"{names}: kernels of {known}; choose one with `size`")
    size = size or sizes[0]
    chosen = [layer for layer in found if layer.kernel_size == size]
    if not chosen:
        raise LayerError(f"{names}: no kernels of {size[0]}x{size[1]}, only {known}{remedy}")
    kernels = [x.matrix().reshape(-1, size[0] * size[1]).astype(np.float64) for x in chosen]
    digests = tuple(checkpoint.digest for checkpoint in checkpoints)
    return KernelCollection(size, np.concatenate(kernels), len(chosen), digests)


def kernel_sizes(
    checkpoints: Sequence[Checkpoint],
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
) -> list[Size]:
    """List the sizes of the kernels that :func:`collect_kernels` would choose from.

    Raises:
        LayerError: there are none.
    """
    found = {x.kernel_size for each in checkpoints for x in _layers(each, layers, all_spatial)}
    if not found:
        names = ", ".join(checkpoint.name for checkpoint in checkpoints)
        remedy = "" if all_spatial else "; `all_spatial` takes standard convolutions too"
        raise LayerError(f"{names}: no depthwise convolution{remedy}")
    return sorted(found)


def _layers(
    checkpoint: Checkpoint, globs: Iterable[str] | None, all_spatial: bool
) -> list[FilterLayer]:
    checkpoint.check_unpacked()
    spatial = [layer for layer in find_layers(checkpoint) if layer.is_spatial]
    chosen = select_layers(spatial, globs)
    return [layer for layer in chosen if all_spatial or layer.kind == "depthwise"]
