"""A network whose steering others are given."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.errors import LayerError
from filtersurgeon.explain.basis import Basis, Size
from filtersurgeon.explain.own_basis import kernel_blocks, own_basis
from filtersurgeon.filters import FilterLayer, layers_to_analyse


class Guide:
    """The spatial kernels of a network, in the basis of their principal components.

    Args:
        checkpoint: the network; its layers are read when they are needed, one at a time.

    Raises:
        LayerError: it has no spatial convolutions.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.name = checkpoint.name
        self.layers = [x for x in layers_to_analyse(checkpoint) if x.stores_kernels]
        self._bases: dict[Size, Basis] = {}

    @cached_property
    def _by_name(self) -> dict[str, FilterLayer]:
        return {layer.name: layer for layer in self.layers}

    def counterpart(self, layer: FilterLayer) -> FilterLayer:
        """Give the layer to be guided by: the one of the same name.

        Raises:
            LayerError: there is none, or its kernels are of another size.
        """
        size = layer.kernel_size
        found = self._by_name.get(layer.name)
        if found is None:
            raise LayerError(
                f"layer {layer.name} has no counterpart in the guide {self.name}; "
                f"leave it out with `layers` '!{layer.name}', or take another guide"
            )
        if found.kernel_size != size:
            raise LayerError(
                f"layer {layer.name} has {size[0]}x{size[1]} kernels, the guide {self.name} has "
                f"{found.kernel_size[0]}x{found.kernel_size[1]} there"
            )
        return found

    def basis(self, size: Size) -> Basis:
        """Give the principal components of all kernels of a size."""
        if size not in self._bases:
            self._bases[size] = own_basis(self.layers, size)
        return self._bases[size]

    def coefficients(self, layer: FilterLayer) -> np.ndarray:
        """Give the coefficients of a layer's counterpart, ``(n_kernels of the guide, m)``.

        Raises:
            LayerError: as :meth:`counterpart`.
        """
        found = self.counterpart(layer)
        vectors = self.basis(found.kernel_size).vectors
        return np.concatenate([kernels @ vectors.T for kernels in kernel_blocks(found)])
