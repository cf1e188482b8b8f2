"""Initialise the spatial kernels with fixed values; keep or reset all other weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import replace as altered
from functools import cache, partial
from typing import Any

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.matching import load_banks, match_layers, sizes
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.tensor import encode
from filtersurgeon.data.data import DataSpec, ImageRun
from filtersurgeon.errors import ArchitectureError, OptionError, near_misses
from filtersurgeon.explain.basis import Guide
from filtersurgeon.filters import (
    FilterLayer,
    as_globs,
    check_finite,
    layer_seed,
    select_spatial,
)
from filtersurgeon.networks.files import load
from filtersurgeon.networks.opened_module import transforms_modules
from filtersurgeon.registry import INITIALIZERS
from filtersurgeon.transforms._compensating import check_compensation, compensated
from filtersurgeon.transforms._fabrication import rounded

OTHERS = ("keep", "reset")


@dataclass(frozen=True)
class LayerInitialization:
    """The change of one layer.

    Attributes:
        name: the module's name.
        kernel_size: height and width.
        kernels: number of kernels.
        rms: root mean square of the weights before.
        rms_after: and after.
    """

    name: str
    kernel_size: tuple[int, int]
    kernels: int
    rms: float
    rms_after: float

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        return {**asdict(self), "kernel_size": list(self.kernel_size)}


Observer = Callable[[LayerInitialization], None]


@transforms_modules
def initialize(
    checkpoint: Checkpoint,
    *,
    method: str = "ghaar",
    guide: str | Checkpoint | None = None,
    bank: str | FilterBank | Sequence[str | FilterBank] | None = None,
    match_scale: bool = False,
    others: str = "keep",
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    layers: Iterable[str] | None = None,
    compensate: str = "none",
    data: ImageRun | DataSpec | str | Any | None = None,
    observe: Observer | None = None,
) -> Checkpoint:
    """Initialise the kernels of spatial convolutions; 1x1 convolutions do not change.

    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.1.

    Args:
        checkpoint: the network.
        method: ``ones``, ``dct2``, ``unchanged``, ``ghaar``, ``psine``, ``guided-steer`` or
            ``bank``: the name of a file in ``initializers``.
        guide: of ``guided-steer``, the network to be steered like; a checkpoint, or where it is.
        bank: of ``bank``, a built-in bank's name, a bank file, or a bank; or several, of which
            each layer takes the first that has kernels of its size. None for ``dog8``. Layers of
            other sizes do not change.
        match_scale: scale each layer to the root mean square of the weights that it had, which
            networks without normalisation need.
        others: ``keep`` all other weights, or ``reset`` them as the architecture initialises them.
        options: the method's own.
        seed: of what is drawn, together with each layer's name, and of the reset.
        layers: globs; None takes every spatial convolution.
        compensate: how the rest of the network is adapted to the new kernels: ``none``,
            ``batchnorm`` or ``least-squares``, as in ``replace``; only ``batchnorm`` with
            weights that are reset.
        data: images to compensate with, as in ``replace``.
        observe: told about each layer when it has been computed, which is when it is read.

    Returns:
        A checkpoint of the same shapes, computed tensor by tensor as it is read.

    Raises:
        LayerError: no layer fits, or has no counterpart in the guide; later, while reading, a
            layer with weights that are not finite.
        OptionError: an unknown method or option; a guide that is missing; a guide or a bank that
            the method does not use.
        ArchitectureError: what to reset to is not known.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> started = fs.initialize(checkpoint, method="ghaar")
        >>> started["conv1.0.weight"].array().shape
        (16, 3, 3, 3)
    """
    if others not in OTHERS:
        raise OptionError(f"others={others!r} is unknown{near_misses(others, OTHERS)}")
    check_compensation(compensate, data)
    if compensate == "least-squares" and others == "reset":
        raise OptionError(
            "`others='reset'` discards the layers that `compensate='least-squares'` refits; use "
            "`compensate='batchnorm'`"
        )
    draw, bound = INITIALIZERS.function(method), INITIALIZERS.bind(method, options or {})
    guided = "guide" in INITIALIZERS.inputs(method)
    if guided != (guide is not None):
        wanted = "needs a network to be steered like: name it with `guide`"
        raise OptionError(f"{method} {wanted}" if guided else f"{method} has no guide")
    if bank is not None and "bank" not in INITIALIZERS.inputs(method):
        raise OptionError(f"{method} uses no bank; leave out `bank`, or pass `method='bank'`")
    chosen, resources = _spatial(checkpoint, layers), {}
    drawn: dict[str, Any] = {}
    notes: tuple[str, ...] = ()
    banks: dict[str, FilterBank] = {}
    if "bank" in INITIALIZERS.inputs(method):
        sources = load_banks("dog8" if bank is None else bank)
        matched = match_layers(sources, chosen, checkpoint.name)
        banks = {layer.name: found for layer, found in matched}
        names = [source.name for source in sources]
        drawn = {"bank": names if len(names) > 1 else names[0]}
        resources = {k: v for source in sources for k, v in source.resources.items()}
        if left := [layer for layer in chosen if layer.name not in banks]:
            have = f"{' and '.join(names)} has no {sizes(left)} kernels"
            notes = (f"{len(left)} layers do not change: {have}",)
        chosen = [layer for layer, _ in matched]
    if guide is not None:
        leader = load(guide) if isinstance(guide, str) else guide
        known = Guide(leader)
        for layer in chosen:
            known.counterpart(layer)
        bound["guide"], resources = known, {"guide": leader.digest}
    recipe = _Recipe(partial(draw, **bound), banks, match_scale, seed, observe)
    made = {layer.tensor: recipe.stored(layer) for layer in chosen}
    named = {"match_scale": match_scale, "others": others != "keep" and others,
             "options": dict(options or {}), "seed": seed, "layers": as_globs(layers)}  # fmt: skip
    given = {"method": method, **drawn, **{key: value for key, value in named.items() if value}}
    entry = HistoryEntry("initialize", given, resources=resources)
    begun: dict[str, StoredTensor] = {}
    if others == "reset":
        from filtersurgeon.networks.architecture import identify

        checkpoint = identify(checkpoint)
        begun = _reset(checkpoint, {x.tensor for x in chosen}, seed)
    edited = checkpoint.edited(entry, {**begun, **made}, f"initialised by {method}")
    edited = altered(edited, notes=(*edited.notes, *notes))
    return compensated(checkpoint, edited, compensate, data, seed)


def _spatial(checkpoint: Checkpoint, globs: Iterable[str] | None) -> list[FilterLayer]:
    chosen = select_spatial(checkpoint, globs, "initialise")
    for layer in chosen:
        layer.check_type()
    return chosen


@dataclass(frozen=True)
class _Recipe:
    """How to make the kernels of a layer."""

    draw: Callable[..., np.ndarray]
    banks: Mapping[str, FilterBank]
    match_scale: bool
    seed: int
    observe: Observer | None

    def stored(self, layer: FilterLayer) -> StoredTensor:
        load = partial(self._make, layer)
        return StoredTensor.from_bytes(layer.stored.dtype, layer.shape, load)

    def _make(self, layer: FilterLayer) -> np.ndarray:
        generator = np.random.default_rng(layer_seed(layer.name, self.seed))
        members = {"bank": self.banks[layer.name]} if self.banks else {}
        kernels = self.draw(layer, generator, **members)
        before = 0.0
        if self.match_scale or self.observe:
            before = _rms(layer.matrix())
        if self.match_scale:
            kernels = kernels * (before / (_rms(kernels) or 1.0))
        check_finite(kernels, layer.name)
        after = rounded(kernels, layer.stored.dtype, layer.name)
        if self.observe:
            self.observe(
                LayerInitialization(
                    layer.name, layer.kernel_size, layer.n_kernels, before, _rms(after)
                )
            )
        return encode(kernels, layer.stored.dtype)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


def _reset(checkpoint: Checkpoint, kept: set[str], seed: int) -> dict[str, StoredTensor]:
    """Make all other tensors as the architecture does, when the first of them is read."""

    @cache
    def fresh() -> Mapping[str, Any]:
        import torch

        from filtersurgeon.networks.build import make_initialised

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make_initialised(checkpoint).state_dict()

    def load(name: str, stored: StoredTensor) -> Any:
        from filtersurgeon.checkpoint.tensor import from_torch, torch_dtypes

        tensor = fresh().get(name)
        if tensor is None or tuple(tensor.shape) != stored.shape:
            raise ArchitectureError(
                f"{checkpoint.name}: {name} is not as {checkpoint.architecture} makes it, so it "
                "cannot be reset; keep the others with `others='keep'`"
            )
        return from_torch(tensor.to(torch_dtypes()[stored.dtype]), name).raw()

    return {
        name: StoredTensor.from_bytes(stored.dtype, stored.shape, partial(load, name, stored))
        for name, stored in checkpoint.tensors.items()
        if name not in kept
    }
