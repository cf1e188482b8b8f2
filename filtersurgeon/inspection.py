"""What a checkpoint is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.filters import ANY, FilterLayer, find_layers, select_layers
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.transforms.packing.bank_description import (
    BankPacking,
    is_packed_by_bank,
    read_bank_packing,
)
from filtersurgeon.transforms.packing.description import Packing, read_packing

SCHEMA = "filtersurgeon.inspection/1"


@dataclass(frozen=True)
class Inspection(Tabular):
    """The layers, sizes and history of a checkpoint.

    Attributes:
        checkpoint: what was looked at.
        layers: its convolutions, or those of them that were asked for.
        spatial_weights: number of weights in kernels larger than 1x1, of all its layers.
    """

    checkpoint: Checkpoint
    layers: tuple[FilterLayer, ...]
    spatial_weights: int

    def __repr__(self) -> str:
        return summarise(
            self,
            (f"{layer.name}: {layer.kind} {layer.shape}" for layer in self.layers),
            checkpoint=self.checkpoint.name,
            architecture=self.checkpoint.architecture,
            tensors=len(self.checkpoint),
            parameters=self.checkpoint.parameters,
            spatial_weights=self.spatial_weights,
            layers=len(self.layers),
        )

    @property
    def spatial_share(self) -> float:
        """Share of all parameters that lie in kernels larger than 1x1, from 0 to 1."""
        total = self.checkpoint.parameters
        return self.spatial_weights / total if total else 0.0

    @property
    def packing(self) -> Packing | BankPacking | None:
        """What is packed, or None.

        Raises:
            CheckpointError: the file is not packed as it says.
        """
        if is_packed_by_bank(self.checkpoint):
            return read_bank_packing(self.checkpoint)
        return read_packing(self.checkpoint)

    def rows(self) -> Iterator[Row]:
        """Give a row for each convolution."""
        return map(_layer, self.layers)

    def to_json(self) -> dict[str, Any]:
        """Give the inspection in its JSON schema, ``filtersurgeon.inspection/1``."""
        tensors = self.checkpoint.tensors.values()
        packing = self.packing
        return {
            "schema": SCHEMA,
            "architecture": self.checkpoint.architecture,
            "tensors": len(self.checkpoint),
            "parameters": self.checkpoint.parameters,
            "bytes": self.checkpoint.nbytes,
            "dtypes": dict(sorted(Counter(stored.dtype for stored in tensors).items())),
            "spatial_weights": self.spatial_weights,
            "spatial_share": self.spatial_share,
            "layers": [_layer(layer) for layer in self.layers],
            "packed": packing
            and {
                "coefficients": packing.coefficients,
                "layers": [asdict(layer) for layer in packing.layers],
            },
            "history": [entry.to_json() for entry in self.checkpoint.history],
        }


def _layer(layer: FilterLayer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "kind": layer.kind,
        "shape": list(layer.shape),
        "dtype": layer.stored.dtype,
        "filters": layer.n_filters,
        "kernels": layer.n_kernels,
        "kernel_size": list(layer.kernel_size if len(layer.shape) == 4 else layer.shape[2:]),
        "weights": prod(layer.shape),
    }


@analyses_modules
def inspect(
    checkpoint: Checkpoint, *, layers: Iterable[str] | None = None, exact: bool = False
) -> Inspection:
    """List the layers, sizes and history of a checkpoint; reads only the header.

    Args:
        checkpoint: what to look at.
        layers: globs; None takes every convolution.
        exact: ask the architecture which layers are grouped, instead of judging by shapes.

    Raises:
        LayerError: a glob matches nothing.
        ArchitectureError: ``exact``, and the architecture is unknown or does not fit.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> inspection = fs.inspect(checkpoint)
        >>> inspection.layers[0].shape
        (16, 3, 3, 3)
        >>> round(inspection.spatial_share, 2)
        0.7
    """
    groups = None
    if exact:
        from filtersurgeon.networks.build import convolution_groups

        groups = convolution_groups(checkpoint)
    found = find_layers(checkpoint, groups, ANY)
    spatial_weights = sum(prod(layer.shape) for layer in found if layer.is_spatial)
    return Inspection(checkpoint, tuple(select_layers(found, layers)), spatial_weights)
