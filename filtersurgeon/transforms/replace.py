"""Replace every depthwise kernel by the closest linear transform of a bank member."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as altered
from math import prod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.closest import ClosestFit, closest_linear, unit_bank
from filtersurgeon.banks.closest_outputs import closest_outputs
from filtersurgeon.banks.matching import bank_notes, load_banks, match_layers, sizes
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tensor import BITS, Buffer, decode, encode
from filtersurgeon.data.data import DataSpec, ImageRun, as_run
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import (
    FilterLayer,
    as_globs,
    check_finite,
    find_layers,
    lacks_convolutions,
    select_layers,
)
from filtersurgeon.networks.opened_module import transforms_modules
from filtersurgeon.transforms._compensating import check_compensation, compensated, stated
from filtersurgeon.transforms._folding import check_outputs, scaled_kernels
from filtersurgeon.transforms._folding import fold as fold_scales

if TYPE_CHECKING:
    from filtersurgeon.pruning.compensation.inputs import KernelInputs

BIASES = ("keep", "drop")
FITS = ("weights", "outputs")


@dataclass(frozen=True)
class LayerReplacement:
    """The error of one replaced layer.

    Attributes:
        name: the module's name.
        bank: the name of the bank.
        n_kernels: number of kernels replaced.
        labels: names of the bank's K members.
        usage: ``(K,)`` how many kernels each member stands for.
        relative_error: ``||new - old|| / ||old||`` over the layer; 0 for a layer of zeros.
        energy: ``||old||^2``.
    """

    name: str
    bank: str
    n_kernels: int
    labels: tuple[str, ...]
    usage: np.ndarray
    relative_error: float
    energy: float

    def __repr__(self) -> str:
        return summarise(
            self,
            name=self.name,
            bank=self.bank,
            kernels=self.n_kernels,
            usage=self.usage.shape,
            relative_error=float(f"{self.relative_error:.3g}"),
        )

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        return {
            "name": self.name,
            "bank": self.bank,
            "kernels": self.n_kernels,
            "relative_error": self.relative_error,
            "members": list(self.labels),
            "usage": self.usage.tolist(),
        }


Observer = Callable[[LayerReplacement], None]
Banks = str | FilterBank | Sequence[str | FilterBank]


class Settings(NamedTuple):
    """How layers are replaced.

    Attributes:
        bias: whether an offset is fitted.
        observe: told about each layer.
        inputs: layer -> what its kernels see, to which its outputs are fitted; weights are fitted
            in other layers.
    """

    bias: bool
    observe: Observer | None = None
    inputs: Mapping[str, KernelInputs] = MappingProxyType({})

    def fit(self, layer: FilterLayer, kernels: np.ndarray, unit: np.ndarray) -> ClosestFit:
        """Fit kernels of a layer, ``(N, m)``, by members; all of them where outputs are fitted."""
        seen = self.inputs.get(layer.name)
        if seen is None:
            return closest_linear(kernels, unit, self.bias)
        return closest_outputs(kernels, unit, seen.moments, seen.owner, self.bias)


@transforms_modules
def replace(
    checkpoint: Checkpoint,
    *,
    bank: Banks = "dog8",
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
    bias: str = "keep",
    fold: bool = False,
    fit: str | None = None,
    compensate: str = "none",
    data: ImageRun | DataSpec | str | Any | None = None,
    seed: int = 0,
    observe: Observer | None = None,
) -> Checkpoint:
    """Replace kernels by their closest linear transform ``a * g + b`` of a bank member ``g``.

    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, App. A.1,
    and section 4.1 for ``fold``.

    Args:
        checkpoint: the network.
        bank: a built-in bank's name, a bank file, or a bank; or several, of which each layer takes
            the first that has kernels of its size.
        layers: globs; None takes all.
        all_spatial: take the kernels of standard convolutions too, each for itself.
        bias: ``keep`` fits ``a * g + b``; ``drop`` fits ``a * g``, where ``g`` keeps the mean that
            it has in the bank.
        fold: leave kernels ``g + b / a``, and move the scale ``a`` into the batch normalisation or
            the pointwise layer that follows. The network must be known; its outputs are compared
            in float64, and stay the same to 1e-5 of their size. Layers are then computed at once.
        fit: ``weights`` fits the weights of a kernel; ``outputs`` what it makes of images, in
            the original network: other weights, whose outputs are closer. None is ``outputs``
            where images are given to compensate with, but for layers whose weights the network
            computes before it uses them, and else ``weights``.
        compensate: how the rest of the network is adapted to the new kernels, without training:
            ``none``, ``batchnorm`` (running statistics with which every normalisation gives the
            means and variances that it gave in the original network) or ``least-squares`` (also
            refits the pointwise and linear layers that read replaced ones, front to back).
            Everything is then computed at once, and the network must be known.
        data: images for ``compensate`` and ``fit``: an :class:`ImageRun`, or its images alone, the
            name of a file or data set, or images in memory; their labels are not used.
        seed: of the order of the images, and of what is drawn from them.
        observe: told about each layer when it has been computed, which is when it is read.

    Returns:
        A checkpoint of the same shapes, computed tensor by tensor as it is read.

    Raises:
        ArchitectureError: ``fold`` or ``compensate``, and the network cannot be built.
        DataError: images that are missing, too few or do not fit.
        GraphError: ``fold`` or ``compensate``, and the network cannot be followed.
        LayerError: no layer fits; a scale cannot move exactly; later, while reading, a layer with
            non-finite weights.
        OptionError: unknown bank, or one that no layer takes; options that exclude each other.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> replaced = fs.replace(checkpoint, bank="dog8", all_spatial=True)
        >>> replaced["conv1.0.weight"].array().shape
        (16, 3, 3, 3)
        >>> replaced.history[-1].verb
        'replace'
    """
    if bias not in BIASES:
        raise OptionError(f"`bias` {bias!r} should be keep or drop{near_misses(bias, BIASES)}")
    if fold and all_spatial:
        raise OptionError(
            "fold moves one scale per channel, and standard convolutions have one per kernel; "
            "leave out `all_spatial` or `fold`"
        )
    if fit is not None and fit not in FITS:
        raise OptionError(f"fit: {fit!r} is neither weights nor outputs{near_misses(fit, FITS)}")
    if fit == "outputs" and data is None:
        raise OptionError("`fit='outputs'` needs images: pass them with `data`")
    check_compensation(compensate, data, fit == "outputs")
    by_default = fit is None
    if fit is None:
        fit = "weights" if compensate == "none" else "outputs"
    sources, layers = load_banks(bank), as_globs(layers)
    chosen = _eligible(checkpoint, layers, all_spatial)
    matched = match_layers(sources, chosen, checkpoint.name)
    name = " and ".join(source.name for source in sources)
    settings = Settings(bias == "keep", observe)
    if fit == "outputs":
        from filtersurgeon.pruning.compensation.inputs import kernel_inputs

        fitted = [layer for layer, _ in matched]
        run, centred = as_run(data), compensate != "none"
        inputs = kernel_inputs(checkpoint, fitted, run, seed, centred, all_layers=not by_default)
        settings = settings._replace(inputs=inputs)
        fit = "outputs" if inputs else "weights"
    named = {"layers": layers, "all_spatial": all_spatial, "fold": fold}
    banks = [source.name for source in sources]
    options = {
        "bank": banks if len(banks) > 1 else banks[0],
        **({"bias": bias} if bias != "keep" else {}),
        **{key: value for key, value in named.items() if value},
    }
    resources = {k: v for source in sources for k, v in source.resources.items()}
    entry = HistoryEntry("replace", options, resources=resources)
    why = f"closest linear transform of {name}"
    replaced = {layer.tensor: _replace_layer(layer, its, settings) for layer, its in matched}
    edited = checkpoint.edited(entry, replaced, why)
    notes = []
    if fold:
        from filtersurgeon.networks.architecture import identify

        checkpoint = identify(checkpoint)
        folded = checkpoint.edited(entry, _fold(checkpoint, matched, settings), why)
        plain = checkpoint.edited(
            entry,
            {
                x.tensor: _replace_layer(x, its, settings._replace(observe=None))
                for x, its in matched
            },
            why,
        )
        difference = check_outputs(plain, folded)
        edited = folded
        notes.append(f"folding changed the outputs by {difference:.1e} of their size")
    notes += bank_notes(matched, settings.bias)
    fitting = {layer.tensor for layer, _ in matched}
    left = [layer for layer in chosen if layer.tensor not in fitting]
    if left:
        notes.append(f"{len(left)} layers left as they are: {name} has no {sizes(left)} kernels")
    unseen = [layer.name for layer, _ in matched if layer.name not in settings.inputs]
    if unseen and fit == "outputs":
        notes.append(
            f"{len(unseen)} layers are fitted by weights, which the network computes first"
        )
    if fit == "outputs":
        edited = stated(edited, {"fit": fit, **({"seed": seed} if seed else {})}, data)
    edited = compensated(checkpoint, edited, compensate, data, seed)
    return altered(edited, notes=(*edited.notes, *notes))


def _fold(
    checkpoint: Checkpoint, matched: Iterable[tuple[FilterLayer, FilterBank]], settings: Settings
) -> dict[str, StoredTensor]:
    scaled = []
    for layer, bank in matched:
        members = bank.kernels.reshape(len(bank), -1)
        kernels = layer.matrix()
        fit = settings.fit(layer, kernels, unit_bank(members, settings.bias))
        if settings.observe:
            usage = np.bincount(fit.choice, minlength=len(bank))
            error = float(np.square(fit.kernels - kernels, dtype=np.float64).sum())
            settings.observe(_report(layer, bank, usage, error, _energy(kernels)))
        scaled.append(scaled_kernels(layer, members, fit, settings.bias))
    return fold_scales(checkpoint, scaled)


def _eligible(
    checkpoint: Checkpoint, globs: Iterable[str] | None, all_spatial: bool
) -> list[FilterLayer]:
    checkpoint.check_unpacked()
    found = find_layers(checkpoint)
    if not found:
        raise lacks_convolutions(checkpoint)
    chosen = select_layers([layer for layer in found if layer.is_spatial], globs)
    eligible = [layer for layer in chosen if all_spatial or layer.kind == "depthwise"]
    for layer in eligible:
        layer.check_type()
    if not eligible:
        remedy = "; `all_spatial` takes standard convolutions too" if chosen else ""
        raise LayerError(f"{checkpoint.name} has no depthwise convolution to replace{remedy}")
    return eligible


def _replace_layer(layer: FilterLayer, bank: FilterBank, settings: Settings) -> StoredTensor:
    dtype, size = layer.stored.dtype, prod(layer.kernel_size)
    unit = unit_bank(bank.kernels.reshape(len(bank), size), settings.bias)

    def blocks(multiple: int) -> Iterator[Buffer]:
        usage, error, energy = np.zeros(len(bank), np.int64), 0.0, 0.0
        # A block must hold whole kernels, and be what the reader asked for.
        step = np.lcm(multiple, size * BITS[dtype] // 8)
        whole = layer.name in settings.inputs
        for raw in [layer.stored.raw()] if whole else layer.stored.blocks(step):
            kernels = decode(raw, dtype).reshape(-1, size)
            check_finite(kernels, layer.name)
            fit = settings.fit(layer, kernels, unit)
            usage += np.bincount(fit.choice, minlength=len(bank))
            error += float(np.square(fit.kernels - kernels, dtype=np.float64).sum())
            energy += _energy(kernels)
            yield _encode(fit.kernels, dtype, layer.name)
        if settings.observe:
            settings.observe(_report(layer, bank, usage, error, energy))

    return StoredTensor(dtype, layer.shape, blocks)


def _energy(kernels: np.ndarray) -> float:
    return float(np.square(kernels, dtype=np.float64).sum())


def _report(
    layer: FilterLayer, bank: FilterBank, usage: np.ndarray, error: float, energy: float
) -> LayerReplacement:
    relative = float(np.sqrt(error / energy)) if energy else 0.0
    return LayerReplacement(
        layer.name, bank.name, layer.n_kernels, bank.labels, usage, relative, energy
    )


def _encode(kernels: np.ndarray, dtype: str, layer: str) -> np.ndarray:
    raw = encode(kernels, dtype)
    if dtype == "F16" and not np.isfinite(decode(raw, dtype)).all():
        raise LayerError(
            f"layer {layer}: a replaced kernel is too large for float16; "
            f"leave the layer out with `layers` '!{layer}', or store it in float32"
        )
    return raw
