"""Store archetypes, or indices into a bank, instead of filters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from filtersurgeon.banks import FilterBank
from filtersurgeon.checkpoint import Change, Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.checkpoint import PACKED
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import as_globs, layers_to_analyse
from filtersurgeon.networks.devices import AUTO
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.ranking.archetype_counts import (
    SHARE,
    Counts,
    Wanted,
    archetypes_of_layers,
    solver_options,
)
from filtersurgeon.transforms._fabrication import Draw
from filtersurgeon.transforms.packing.bank_network import pack_with_banks
from filtersurgeon.transforms.packing.by_bank import BankLayerPacking
from filtersurgeon.transforms.packing.description import COEFFICIENTS, Packing
from filtersurgeon.transforms.packing.layer import LayerPacking, pack_layer

Observer = Callable[[LayerPacking], None] | Callable[[BankLayerPacking], None]
"""Told a ``LayerPacking``, or a ``BankLayerPacking`` where a bank was given."""

_DEFAULTS: tuple[Any, ...] = ("learned", SHARE, {}, False, "uniform", None, 0)


@analyses_modules
def pack(
    checkpoint: Checkpoint,
    *,
    coefficients: str = "learned",
    archetypes: Wanted = SHARE,
    n_init: int | None = None,
    tol: float = 1e-5,
    max_iter: int = 300,
    half: bool = False,
    draw: str = "uniform",
    concentration: float | None = None,
    seed: int = 0,
    layers: Iterable[str] | None = None,
    bank: str | FilterBank | Sequence[str | FilterBank] | None = None,
    device: str = "auto",
    observe: Observer | None = None,
) -> Checkpoint:
    """Store archetypes, or indices into a bank, instead of filters; ``unpack`` restores them.

    With learned coefficients, the convex combination of archetypes that is closest to each filter
    is stored, sparsely, and unpacking restores it. With random ones, only a seed is stored, and
    unpacking makes other filters from the same archetypes, those of ``fabricate``. The error of
    what unpacking gives is stored with each layer. Layers that would not get smaller are left as
    they are.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, section 5.

    Args:
        checkpoint: the network.
        coefficients: ``learned`` or ``random``.
        archetypes: of each layer: a number (16), a share of its filters (0.25, ``25%``), or
            ``elbow``, where the error against their number turns; or a mapping of globs to these,
            of which the last that matches a layer holds.
        n_init: starts of the archetypal analysis, of which the best is kept; None chooses.
        tol: stop the analysis at this relative improvement of its objective.
        max_iter: sweeps of a start at most.
        half: store archetypes and coefficients in half precision.
        draw: of random coefficients, as in ``fabricate``.
        concentration: likewise.
        seed: likewise.
        layers: globs; None takes every spatial convolution.
        bank: store no archetypes: of every kernel that ``replace`` made from this bank (or these),
            its index and the numbers a and b, which restore it bit for bit. The other options,
            but for ``layers``, say nothing then and must be left out.
        device: where archetypes are computed; ``auto`` is the CPU. A GPU such as ``cuda`` analyses
            layers of equal size side by side; the errors agree with the CPU's to 1 %. Packing by a
            bank computes little and stays on the CPU.
        observe: told about each layer, also about those that are left as they are.

    Returns:
        A checkpoint whose packed tensors ``NAME`` are replaced by ``NAME.archetypes`` and so on.
        It is computed at once, because the sizes depend on the numbers.

    Raises:
        CheckpointError: it is packed already.
        LayerError: no layer fits or shrinks, or one has non-finite weights.
        OptionError: an unusable option, or one that does not go with another.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> replaced = fs.replace(checkpoint, bank="dog8", all_spatial=True)
        >>> packed = fs.pack(replaced, bank="dog8")
        >>> packed["conv1.0.weight.index"].shape
        (48,)
        >>> fs.unpack(packed)["conv1.0.weight"].shape
        (16, 3, 3, 3)
    """
    told: Callable[[Any], None] | None = observe
    search = solver_options(n_init, tol, max_iter)
    if bank is not None:
        if device != AUTO:
            raise OptionError("packing by a bank stays on the CPU; leave `device` out")
        given = (coefficients, archetypes, search, half, draw, concentration, seed)
        if given != _DEFAULTS:
            raise OptionError("packing by a bank stores no archetypes; leave their options out")
        return pack_with_banks(checkpoint, bank, layers, told)
    counts = Counts.read(archetypes)
    random, globs = drawing(coefficients, draw, concentration, seed), as_globs(layers)
    tensors: dict[str, dict[str, StoredTensor]] = {}
    described = []
    chosen = layers_to_analyse(checkpoint, globs)
    for layer in chosen:
        layer.check_one_tensor("pack")
    wanted = counts.by_layer(chosen)
    for layer, model, _ in archetypes_of_layers(chosen, wanted, device, **search):
        cost, description, parts = pack_layer(layer, model, random, half)
        if told:
            told(cost)
        if cost.shrinks:
            described.append(description)
            tensors[layer.tensor] = {f"{layer.tensor}.{k}": part for k, part in parts.items()}
    taken = [name for parts in tensors.values() for name in parts if name in checkpoint]
    if taken:
        raise LayerError(f"there is a tensor called {taken[0]} already; leave its layer out")
    if not described:
        raise LayerError(f"no layer of {checkpoint.name} would get smaller; try fewer archetypes")
    named = {"half": half, "layers": globs}
    drawn = {"draw": draw, "concentration": concentration, "seed": seed} if random else {}
    rest = {k: v for k, v in {**drawn, **named}.items() if v and v != "uniform"}
    options = {"coefficients": coefficients, "archetypes": counts.stated(), **search, **rest}
    packing = Packing(coefficients, random, tuple(described), tuple(checkpoint))
    return _assemble(checkpoint, HistoryEntry("pack", options), packing, tensors)


def drawing(coefficients: str, draw: str, concentration: float | None, seed: int) -> Draw | None:
    """Give how random coefficients are drawn, or None for learned ones.

    Raises:
        OptionError: an unknown word, or one that does not go with another.
    """
    if coefficients not in COEFFICIENTS:
        hint = near_misses(str(coefficients), COEFFICIENTS)
        raise OptionError(f"no coefficients called {coefficients!r}{hint}")
    if coefficients == "random":
        return Draw(draw, concentration, seed)
    if draw != "uniform" or concentration is not None:
        raise OptionError("a draw and its concentration need `coefficients='random'`")
    return None


def _assemble(
    checkpoint: Checkpoint,
    entry: HistoryEntry,
    packing: Packing,
    parts: dict[str, dict[str, StoredTensor]],
) -> Checkpoint:
    tensors: dict[str, StoredTensor] = {}
    for name in checkpoint:
        tensors |= parts.get(name, {name: checkpoint[name]})
    changes = tuple(
        Change(
            layer.tensor,
            layer.shape,
            parts[layer.tensor][f"{layer.tensor}.archetypes"].shape,
            f"archetypes, {packing.coefficients} coefficients",
        )
        for layer in packing.layers
    )
    edited = checkpoint.edited(entry, {}, "").annotated(PACKED, packing.to_text())
    return replace(edited, tensors=tensors, changes=(*checkpoint.changes, *changes))
