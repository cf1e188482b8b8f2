"""What packing would save, and at what error, for several numbers of archetypes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from filtersurgeon.archetypes.problem import Search
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.filters import layers_to_analyse
from filtersurgeon.ranking.archetype_counts import Counts, Wanted, archetypes_of_layers
from filtersurgeon.transforms._fabrication import Draw
from filtersurgeon.transforms.packing.layer import LayerPacking, pack_layer


@dataclass(frozen=True)
class Bargain:
    """One way to pack a checkpoint.

    Attributes:
        archetypes: how many, as for ``pack``.
        half: whether in half precision.
        bytes: size of all the checkpoint's tensors now.
        layers: what it does to each layer; those that do not shrink would be left.
    """

    archetypes: Wanted
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
            "archetypes": Counts.read(self.archetypes).stated(),
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
    numbers: Sequence[Wanted],
    *,
    draw: Draw | None = None,
    layers: Iterable[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    **search: Unpack[Search],
) -> list[Bargain]:
    """Try several numbers of archetypes, each in full and in half precision.

    Args:
        checkpoint: the network.
        numbers: of archetypes, each as for ``pack``.
        draw: of random coefficients; None for learned ones.
        layers: globs; None takes every spatial convolution.
        device: where archetypes are computed; ``auto`` is the CPU.
        progress: told how many layers of how many are done.
        **search: options of the solver.

    Returns:
        For every one of the numbers, full precision and half.

    Raises:
        LayerError: no layer fits, or one has weights that are not finite or beyond half precision.
        OptionError: an unusable number, or there is no such device.
    """
    counts = [Counts.read(number) for number in numbers]
    chosen = layers_to_analyse(checkpoint, layers)
    wanted = [each.by_layer(chosen) for each in counts]
    ways = [(at, half) for at in range(len(numbers)) for half in (False, True)]
    found: dict[tuple[int, bool], list[LayerPacking]] = {way: [] for way in ways}
    by_number = [archetypes_of_layers(chosen, each, device, **search) for each in wanted]
    for done, models in enumerate(zip(*by_number, strict=True), 1):
        for at, (layer, model, _) in enumerate(models):
            for half in (False, True):
                found[at, half].append(pack_layer(layer, model, draw, half)[0])
        if progress:
            progress(done, len(chosen))
    size = checkpoint.nbytes
    return [Bargain(numbers[at], half, size, tuple(found[at, half])) for at, half in ways]
