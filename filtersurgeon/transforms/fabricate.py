"""Replace every filter by a random convex combination of its layer's archetypes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from filtersurgeon.archetypes import Archetypes
from filtersurgeon.archetypes.problem import Search
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.tensor import encode
from filtersurgeon.data.data import DataSpec, ImageRun
from filtersurgeon.filters import FilterLayer, as_globs, layers_to_analyse
from filtersurgeon.networks.devices import find_accelerator
from filtersurgeon.networks.opened_module import transforms_modules
from filtersurgeon.ranking.archetype_counts import (
    SHARE,
    Count,
    Counts,
    Wanted,
    archetypes_of_layers,
    layer_archetypes,
    solver_options,
)
from filtersurgeon.transforms._compensating import check_compensation, compensated
from filtersurgeon.transforms._fabrication import (
    Draw,
    match_norms,
    rounded,
)


@dataclass(frozen=True)
class LayerFabrication:
    """The change of one layer.

    Attributes:
        name: the module's name.
        filters: number of filters, before and after.
        archetypes: how many archetypes they are mixed from.
        error: relative residual of the archetypes as a model of the filters they replace.
        norm: mean Euclidean norm of the filters before.
        norm_after: and after.
    """

    name: str
    filters: int
    archetypes: int
    error: float
    norm: float
    norm_after: float

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        return asdict(self)


Observer = Callable[[LayerFabrication], None]


@transforms_modules
def fabricate(
    checkpoint: Checkpoint,
    *,
    archetypes: Wanted = SHARE,
    n_init: int | None = None,
    tol: float = 1e-5,
    max_iter: int = 300,
    draw: str = "uniform",
    concentration: float | None = None,
    norm_match: bool = False,
    seed: int = 0,
    layers: Iterable[str] | None = None,
    compensate: str = "none",
    data: ImageRun | DataSpec | str | Any | None = None,
    device: str = "auto",
    observe: Observer | None = None,
) -> Checkpoint:
    """Replace filters by random convex combinations of their layer's archetypes.

    The archetypes are rounded to the layer's type before they are mixed, as in a packed file, so
    ``pack`` with random coefficients and ``unpack`` give the same filters. Biases and
    normalisations stay: they belong to filters that are no more, so a fabricated network is a
    start for training and not a classifier.
    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, Eq. 1 and 2.

    Args:
        checkpoint: the network.
        archetypes: of each layer: a number (16), a share of its filters (0.25, ``25%``), or
            ``elbow``, where the error against their number turns; or a mapping of globs to these,
            of which the last that matches a layer holds.
        n_init: starts of the archetypal analysis, of which the best is kept; None chooses.
        tol: stop the analysis at this relative improvement of its objective.
        max_iter: sweeps of a start at most.
        draw: ``uniform`` on the simplex, or ``dirichlet``, symmetric.
        concentration: of ``dirichlet``, from 0.001 to 1000. None is one over the number of
            archetypes, which mixes about two of them; 1 is uniform.
        norm_match: scale the new filters so that their norms are those of the layer's filters,
            in the same order of size. Mixtures of many archetypes are otherwise much shorter.
        seed: of the draws, together with each layer's name; also of the order of the images.
        layers: globs; None takes every spatial convolution.
        compensate: how the rest of the network is adapted to the new filters: ``none``,
            ``batchnorm`` or ``least-squares``, as in ``replace``.
        data: images to compensate with, as in ``replace``.
        device: where archetypes are computed; ``auto`` is the CPU. A GPU such as ``cuda`` analyses
            layers of equal size side by side, when the first is read; the errors agree with the
            CPU's to 1 %.
        observe: told about each layer when it has been computed, which is when it is read.

    Returns:
        A checkpoint of the same shapes, computed tensor by tensor as it is read.

    Raises:
        LayerError: no layer fits; later, while reading, a layer with non-finite weights.
        OptionError: an unusable number, draw or concentration, a search that is none, or there is
            no such device.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> fabricated = fs.fabricate(checkpoint, archetypes=0.25, layers=["conv1.0"])
        >>> fabricated["conv1.0.weight"].array().shape
        (16, 3, 3, 3)
    """
    counts, search = Counts.read(archetypes), solver_options(n_init, tol, max_iter)
    check_compensation(compensate, data)
    drawing, globs = Draw(draw, concentration, seed), as_globs(layers)
    chosen = layers_to_analyse(checkpoint, globs)
    wanted = counts.by_layer(chosen)
    find = _Models(chosen, wanted, device, search)
    made = {}
    for layer in chosen:
        layer.check_type()
        load = partial(_fabricate_layer, layer, find, drawing, norm_match, observe)
        made[layer.tensor] = StoredTensor.from_bytes(layer.stored.dtype, layer.shape, load)
    named = {"draw": draw, "concentration": concentration, "norm_match": norm_match,
             "seed": seed, "layers": globs}  # fmt: skip
    options = {k: v for k, v in named.items() if v and v != "uniform"}
    entry = HistoryEntry("fabricate", {"archetypes": counts.stated(), **search, **options})
    edited = checkpoint.edited(entry, made, f"{draw} mixtures of archetypes")
    return compensated(checkpoint, edited, compensate, data, seed)


class _Models:
    """Finds the archetypes of a layer when it is read; on a GPU those of all layers at once."""

    def __init__(
        self,
        layers: Sequence[FilterLayer],
        wanted: Mapping[str, Count],
        device: str,
        search: Search,
    ) -> None:
        self._layers, self._wanted, self._device, self._search = layers, wanted, device, search
        self._alone = find_accelerator(device) is None

    def __call__(self, layer: FilterLayer) -> Archetypes:
        if self._alone:
            return layer_archetypes(layer, self._wanted[layer.name], **self._search)[0]
        return self._found[layer.name]

    @cached_property
    def _found(self) -> dict[str, Archetypes]:
        models = archetypes_of_layers(self._layers, self._wanted, self._device, **self._search)
        return {layer.name: model for layer, model, _ in models}


def _fabricate_layer(
    layer: FilterLayer,
    find: Callable[[FilterLayer], Archetypes],
    draw: Draw,
    norm_match: bool,
    observe: Observer | None,
) -> np.ndarray:
    X, dtype = layer.matrix(), layer.stored.dtype
    model = find(layer)
    assert model.archetypes is not None
    Y = draw.coefficients(layer.name, layer.n_filters, model.n_archetypes)
    mixed = Y @ rounded(model.archetypes, dtype, layer.name)
    before = np.linalg.norm(X.astype(np.float64), axis=1)
    if norm_match:
        mixed = match_norms(mixed, before)
    made = rounded(mixed, dtype, layer.name)
    if observe:
        after = np.linalg.norm(made, axis=1)
        observe(
            LayerFabrication(
                layer.name, layer.n_filters, model.n_archetypes, float(model.relative_error),
                float(before.mean()), float(after.mean()),
            )
        )  # fmt: skip
    return encode(made, dtype)
