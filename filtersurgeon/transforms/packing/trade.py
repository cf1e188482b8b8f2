"""What packing would save, and at what error, for several numbers of archetypes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.filters import layers_to_analyse
from filtersurgeon.transforms._fabrication import Draw, check_share, find_archetypes
from filtersurgeon.transforms.packing.layer import LayerPacking, pack_layer


@dataclass(frozen=True)
class Bargain:
    """One way to pack a checkpoint.

    Attributes:
        archetypes: their number as a share of a layer's filters.
        half: whether in half precision.
        bytes: size of all the checkpoint's tensors now.
        layers: what it does to each layer; those that do not shrink would be left.
    """

    archetypes: float
    half: bool
    bytes: int
    layers: tuple[LayerPacking, ...]

    @property
    def packed_bytes(self) -> int:
        """Size of all tensors then."""
        return self.bytes - sum(x.bytes - x.packed_bytes for x in self.layers if x.shrinks)

    @property
    def error(self) -> float:
        """``||restored - original|| / ||original||`` over the layers that are packed."""
        return overall_error(self.layers)

    def to_json(self) -> dict[str, Any]:
        """Give it as it stands in the JSON of a dry run."""
        return {
            "archetypes": self.archetypes,
            "half": self.half,
            "bytes": self.bytes,
            "packed_bytes": self.packed_bytes,
            "error": self.error,
        }


def overall_error(layers: Iterable[LayerPacking]) -> float:
    """Give the relative error over those layers that shrink; 0 if they hold but zeros."""
    packed = [layer for layer in layers if layer.shrinks]
    energy = sum(layer.energy for layer in packed)
    return (sum(x.energy * x.error**2 for x in packed) / energy) ** 0.5 if energy else 0.0


def trade(
    checkpoint: Checkpoint,
    shares: Sequence[float],
    *,
    draw: Draw | None = None,
    layers: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> list[Bargain]:
    """Try several numbers of archetypes, each in full and in half precision.

    Args:
        checkpoint: the network.
        shares: numbers of archetypes as shares of a layer's filters.
        draw: of random coefficients; None for learned ones.
        layers: globs; None takes every spatial convolution.
        progress: told how many layers of how many are done.

    Returns:
        For every share, full precision and half.

    Raises:
        LayerError: no layer fits, or one has weights that are not finite or beyond half precision.
        OptionError: an unusable share.
    """
    for share in shares:
        check_share(share)
    chosen = layers_to_analyse(checkpoint, layers)
    found: dict[tuple[float, bool], list[LayerPacking]] = {}
    for done, layer in enumerate(chosen, 1):
        for share in shares:
            model = find_archetypes(layer, share)
            for half in (False, True):
                cost = pack_layer(layer, model, draw, half)[0]
                found.setdefault((share, half), []).append(cost)
        if progress:
            progress(done, len(chosen))
    return list(_bargains(checkpoint.nbytes, found))


def _bargains(size: int, found: dict[tuple[float, bool], list[LayerPacking]]) -> Iterator[Bargain]:
    for (share, half), layers in found.items():
        yield Bargain(share, half, size, tuple(layers))
