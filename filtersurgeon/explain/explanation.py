"""ExplainSteer: how the filters of a network are steered, layer by layer, and checks of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.explain.basis import (
    NAMES,
    SEPARABLE,
    Basis,
    Size,
    kernel_blocks,
    own_basis,
    separable_basis,
)
from filtersurgeon.explain.spectrum import Spectrum, spectrum, whole
from filtersurgeon.filters import FilterLayer, layers_to_analyse
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.ranking.kernel_scores import KernelScores

SCHEMA = "filtersurgeon.explanation/1"


@dataclass(frozen=True)
class Explanation(Tabular):
    """The frequency spectra of the layers of a network.

    Attributes:
        name: the network's.
        basis: the name of the basis.
        weights: where the kernels' weights come from: ``uniform``, or the method of their scores.
        layers: a spectrum per layer, in natural order, those that read the image first.
        network: a spectrum of all kernels per kernel size, smallest first.
    """

    name: str
    basis: str
    weights: str
    layers: tuple[Spectrum, ...]
    network: tuple[Spectrum, ...]

    def __repr__(self) -> str:
        entries = (
            f"{x.name}: {x.n_kernels} kernels of {x.basis.size[0]}x{x.basis.size[1]}, "
            f"energy {x.energy:.3g}"
            for x in self.layers
        )
        return summarise(
            self,
            entries,
            name=self.name,
            basis=self.basis,
            weights=self.weights,
            layers=len(self.layers),
            kernels=sum(x.n_kernels for x in self.layers),
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each layer."""
        for x in self.layers:
            yield {
                "layer": x.name,
                "kernels": x.n_kernels,
                "kernel size": x.basis.size,
                "energy": x.energy,
            }

    def records(self) -> Iterator[Row]:
        """Give a row for each basis filter of each layer."""
        for x in self.layers:
            for number, energy in enumerate(x.e2):
                yield {"layer": x.name, "basis filter": number, "e2": float(energy)}

    @property
    def silent(self) -> list[str]:
        """Name the layers that carry almost none of the energy.

        That is less than a tenth of what an average layer carries.
        """
        limit = 0.1 * sum(layer.energy for layer in self.layers) / len(self.layers)
        return [layer.name for layer in self.layers if layer.energy < limit]

    @property
    def notes(self) -> list[str]:
        """Say what is missing, and why."""
        odd = [x for x in self.layers if x.basis.size[0] != x.basis.size[1]]
        if not odd or self.basis not in SEPARABLE:
            return []
        named = ", ".join(f"{x.name} ({x.basis.size[0]}x{x.basis.size[1]})" for x in odd[:5])
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        return [f"no e0 for kernels that are not square, e2 and e1 only: {named}{more}"]

    def to_json(self) -> dict[str, Any]:
        """Give the explanation in its JSON schema, ``filtersurgeon.explanation/1``."""
        return {
            "schema": SCHEMA,
            "basis": self.basis,
            "weights": self.weights,
            "network": [part.to_json() for part in self.network],
            "layers": [layer.to_json() for layer in self.layers],
            "almost_none": self.silent,
        }


@analyses_modules
def explain(
    checkpoint: Checkpoint,
    *,
    basis: str = "dct",
    scores: KernelScores | None = None,
    layers: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Measure how much energy each basis filter contributes to every layer's kernels.

    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.2,
    Eq. 2 to 6.

    Args:
        checkpoint: the network; read one block at a time.
        basis: ``dct``, ``haar``, or ``pca``, the principal components of the network's own
            kernels, per kernel size.
        scores: weights of the kernels, such as their saliency; None weighs them alike.
        layers: globs; None takes every spatial convolution.
        progress: told layers done and layers in all.

    Raises:
        OptionError: no such basis.
        LayerError: no such layer, one with weights that are not finite, or scores that do not
            belong to the network (the layer is named).

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> explanation = fs.explain(checkpoint, basis="dct")
        >>> first = explanation.layers[0]
        >>> first.name, first.n_kernels, first.e2.shape
        ('conv1.0', 48, (9,))
        >>> first.e0.shape
        (3,)
    """
    _check_basis(basis)
    chosen = sorted(layers_to_analyse(checkpoint, layers), key=lambda x: not reads_images(x))
    bases = _bases(chosen, basis)
    found = []
    for done, layer in enumerate(chosen, 1):
        weights = None if scores is None else _weights(layer, scores)
        found.append(spectrum(layer.name, kernel_blocks(layer), bases[layer.kernel_size], weights))
        if progress:
            progress(done, len(chosen))
    groups = ([x for x in found if x.basis.size == size] for size in sorted(bases))
    totals = tuple(whole(f"all {g[0].basis.size[0]}x{g[0].basis.size[1]}", g) for g in groups)
    method = "uniform" if scores is None else scores.method
    return Explanation(checkpoint.name, basis, method, tuple(found), totals)


def distances(first: Explanation, second: Explanation) -> dict[str, float]:
    """Compare the spectra of layers that two networks have in common.

    Returns:
        By layer name, half the summed difference of the shares of energy: 0 for layers that are
        steered alike, 1 for those that have no basis filter in common. Layers of the same name
        and another kernel size, or without energy, are left out.
    """
    others = {layer.name: layer for layer in second.layers}
    found = {}
    for one in first.layers:
        other = others.get(one.name)
        if other is None or other.basis.size != one.basis.size or not one.energy * other.energy:
            continue
        shares = one.e2 / one.energy - other.e2 / other.energy
        found[one.name] = float(np.abs(shares).sum() / 2)
    return found


def find_basis(name: str, size: Size, checkpoint: Checkpoint | None = None) -> Basis:
    """Return one of the bases that :func:`explain` uses.

    Args:
        name: ``dct``, ``haar`` or ``pca``.
        size: height and width of a kernel.
        checkpoint: the network whose kernels ``pca`` is of.

    Raises:
        OptionError: no such basis, no such size, or no network for ``pca``.
        LayerError: the network has no kernels of that size.

    Examples:
        >>> import filtersurgeon as fs
        >>> basis = fs.find_basis("dct", (3, 3))
        >>> basis.vectors.shape, basis.frequencies.shape, basis.parts.shape
        ((9, 9), (9,), (9, 2))
    """
    _check_basis(name)
    if min(size) < 1 or max(size) == 1:
        raise OptionError(f"a kernel of {size[0]}x{size[1]} has no basis to look at")
    if name in SEPARABLE:
        return separable_basis(name, size)
    if checkpoint is None:
        raise OptionError("the basis pca is of a network's own kernels: pass INPUT")
    layers = [x for x in layers_to_analyse(checkpoint) if x.kernel_size == size]
    if not layers:
        raise LayerError(f"{checkpoint.name} has no kernels of {size[0]}x{size[1]}")
    return own_basis(layers, size)


def _check_basis(name: str) -> None:
    if name not in NAMES:
        raise OptionError(f"no basis called {name!r}{near_misses(name, NAMES)}")


def reads_images(layer: FilterLayer) -> bool:
    """Tell whether a layer seems to read the image: standard, with at most four input channels."""
    return layer.kind == "standard" and layer.shape[1] <= 4


def _bases(layers: Sequence[FilterLayer], name: str) -> dict[Size, Basis]:
    sizes = {layer.kernel_size for layer in layers}
    if name in SEPARABLE:
        return {size: separable_basis(name, size) for size in sizes}
    return {size: own_basis(layers, size) for size in sizes}


def _weights(layer: FilterLayer, scores: KernelScores) -> np.ndarray:
    if layer.name not in scores.layers:
        hint = near_misses(layer.name, scores.layers)
        raise LayerError(f"layer {layer.name} has no scores; they are of another network{hint}")
    found = scores.layers[layer.name]
    if found.shape != layer.shape[:2]:
        raise LayerError(
            f"layer {layer.name} has {layer.shape[0]}x{layer.shape[1]} kernels, its scores are "
            f"of {found.shape[0]}x{found.shape[1]}: they are of another network"
        )
    if not (found >= 0).all():
        raise LayerError(f"layer {layer.name} has scores that are negative or no numbers")
    return found.reshape(-1)


EXPECTATIONS = ("flat", "low-pass")

SLACK = 0.1
"""A flat spectrum's basis filters lie so close to their mean, beyond chance."""

CHANCE = 5.0
"""Standard errors that chance is allowed."""

LOW_PASS = 1.1
"""A low-pass network has so many times the low share of a flat spectrum, at least."""

_NO_MEAN = 1e-3  # of the mean energy: less in the constant basis filter counts as none

_ENOUGH = 16  # kernels per basis filter, to judge a layer by itself


def unmet(explanation: Explanation, expectation: str) -> list[str]:
    """Say what about the spectra is not as expected; nothing if all of it is.

    ``flat``: no basis filter's energy is farther from their mean than a tenth of it and five
    standard errors, in the whole network per kernel size, and in every layer that has at least 16
    kernels per basis filter. ``low-pass``: of the energy of all kernels of a size, at least a
    tenth more lies in low frequencies (:attr:`Spectrum.low_share`) than of a flat spectrum, which
    has no constant part either where the kernels have none.
    Source: the sanity checks of Gaudio et al., *ExplainFix*, Appendix G.

    Args:
        explanation: with uniform weights.
        expectation: ``flat`` or ``low-pass``.

    Raises:
        OptionError: no such expectation, or spectra that are weighed by scores.
    """
    check_expectation(expectation, explanation.weights)
    if expectation == "low-pass":
        return [text for part in explanation.network if (text := _not_low(part))]
    large = [x for x in explanation.layers if x.n_kernels >= _ENOUGH * len(x.e2)]
    return [text for part in (*explanation.network, *large) if (text := _not_flat(part))]


def check_expectation(expectation: str, weights: str) -> None:
    """Refuse an expectation that is unknown, or cannot be had of spectra with such weights.

    Raises:
        OptionError: so it is.
    """
    if expectation not in EXPECTATIONS:
        hint = near_misses(expectation, EXPECTATIONS)
        raise OptionError(f"no expectation called {expectation!r}{hint}")
    if weights != "uniform":
        raise OptionError(
            "an expectation is about the kernels by themselves; leave `data` and scores out"
        )


def _not_flat(part: Spectrum) -> str:
    mean = part.e2.mean()
    if mean == 0:
        return f"{part.name} has no energy at all"
    # If it is flat, every basis filter has this standard error.
    error = 0.0 if part.error is None else float(np.sqrt(np.square(part.error).mean()))
    off = np.abs(part.e2 - mean)
    worst = int(off.argmax())
    if off[worst] <= SLACK * mean + CHANCE * error:
        return ""
    return (
        f"{part.name} is not flat: basis filter {worst} has {part.e2[worst] / mean:.2f} times the "
        f"mean energy of the {len(part.e2)}"
    )


def _not_low(part: Spectrum) -> str:
    flat = np.ones_like(part.e2)
    flat[0] = part.e2[0] > _NO_MEAN * part.e2.mean()
    limit = LOW_PASS * replace(part, e2=flat).low_share
    if part.low_share >= limit:
        return ""
    return (
        f"{part.name} is not low-pass: {100 * part.low_share:.1f} % of the energy lies in low "
        f"frequencies, at least {100 * limit:.1f} % was expected"
    )
