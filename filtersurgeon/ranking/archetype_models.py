"""The archetypes of every layer: found, described, and written to a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.archetypes import Archetypes
from filtersurgeon.archetypes.elbow import ErrorCurve
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.atomic import atomic_file, check_target
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.sinks import write_stream
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.filters import layers_to_analyse
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.ranking.archetype_counts import (
    SHARE,
    Counts,
    Wanted,
    archetypes_of_layers,
    solver_options,
)

SCHEMA = "filtersurgeon.archetypes/1"
ANNOTATION = "archetypes"
PARTS = ("archetypes", "coefficients", "weights")


@dataclass(frozen=True)
class LayerArchetypes:
    """The archetypes of one layer.

    Attributes:
        name: the module's name.
        kind: the layer's kind.
        shape: of its weight, ``(N, in/groups, ...)``.
        filters: ``(N, l)``, the flattened filters.
        model: the archetypes D, the coefficients A and the weights B of ``X ~ D A``, ``D = X B``.
        curve: errors against the number of archetypes, where their elbow was taken.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    filters: np.ndarray
    model: Archetypes
    curve: ErrorCurve | None = None

    @property
    def l0(self) -> np.ndarray:
        """``(N,)`` how many archetypes each filter mixes."""
        found: np.ndarray = (self.model.coefficients > 0).sum(axis=0)
        return found

    def sources(self) -> list[dict[int, float]]:
        """Give for each archetype the filters that it mixes, with their weights, largest first."""
        found = []
        for column in self.model.weights.T:
            used = np.flatnonzero(column)
            order = used[np.argsort(-column[used], kind="stable")]
            found.append({int(n): float(column[n]) for n in order})
        return found

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON."""
        curve = self.curve and {
            "counts": list(self.curve.counts), "errors": list(self.curve.errors)
        }  # fmt: skip
        return {
            "name": self.name,
            "kind": self.kind,
            "filters": len(self.filters),
            "archetypes": self.model.n_archetypes,
            "error": self.model.relative_error,
            "unique": self.model.coefficients_unique,
            "sources": [
                [{"filter": n, "weight": weight} for n, weight in each.items()]
                for each in self.sources()
            ],
            "l0": self.l0.tolist(),
            **({"curve": curve} if curve else {}),
        }

    def tensors(self) -> dict[str, np.ndarray]:
        """Give D ``(d, in/groups, ...)``, A ``(d, N)`` and B ``(N, d)`` by their names."""
        shaped = self.model.archetypes.reshape(-1, *self.shape[1:])
        found = shaped, self.model.coefficients, self.model.weights
        return {f"{self.name}.{part}": x for part, x in zip(PARTS, found, strict=True)}


@dataclass(frozen=True)
class ArchetypeModels(Tabular):
    """The archetypes of several layers.

    Attributes:
        layers: by module name.
        options: how they were found.
    """

    layers: Mapping[str, LayerArchetypes]
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        entries = (
            f"{x.name}: {x.model.n_archetypes} archetypes of {len(x.filters)} filters"
            for x in self.layers.values()
        )
        return summarise(self, entries, layers=len(self.layers), **self.options)

    def to_json(self) -> dict[str, Any]:
        """Give the JSON of schema ``filtersurgeon.archetypes/1``."""
        layers = [layer.to_json() for layer in self.layers.values()]
        return {"schema": SCHEMA, "options": dict(self.options), "layers": layers}

    def rows(self) -> Iterator[Row]:
        """Give a row for each layer."""
        for layer in self.layers.values():
            yield {
                "layer": layer.name,
                "kind": layer.kind,
                "filters": len(layer.filters),
                "archetypes": layer.model.n_archetypes,
                "error": layer.model.relative_error,
                "mean l0": float(layer.l0.mean()),
            }

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write D, A and B of every layer to a safetensors file, in float64.

        The tensors are ``LAYER.archetypes`` ``(d, in/groups, ...)``, ``LAYER.coefficients``
        ``(d, N)`` and ``LAYER.weights`` ``(N, d)``. The metadata hold the JSON, in which each
        archetype names its source filters.

        Raises:
            CheckpointError: the file exists (and ``force`` is off), or cannot be written.
        """
        check_target(Path(path), force)
        tensors = {
            name: StoredTensor.from_array(values, "F64")
            for layer in self.layers.values()
            for name, values in layer.tensors().items()
        }
        annotations = {"schema": SCHEMA, ANNOTATION: json.dumps(self.to_json())}
        with atomic_file(Path(path)) as file:
            write_stream(Checkpoint(tensors, annotations=annotations), file)


@analyses_modules
def find_archetypes(
    checkpoint: Checkpoint,
    *,
    archetypes: Wanted = SHARE,
    capped: bool = True,
    n_init: int | None = None,
    tol: float = 1e-5,
    max_iter: int = 300,
    layers: Iterable[str] | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> ArchetypeModels:
    """Find the archetypes of every layer: ``X ~ D A`` with ``D = X B``, on simplices.

    Source: Thakur, Abrol and Sharma, *Does Geometric Structure in Convolutional Filter Space
    Provide Filter Redundancy Information?*, 2022, Eq. 1.

    Args:
        checkpoint: the network.
        archetypes: of each layer: a number (16), a share of its filters (0.25, ``25%``), or
            ``elbow``, where the error against their number turns; or a mapping of globs to these,
            of which the last that matches a layer holds.
        capped: take no greater share than makes as many archetypes as weights plus one, as
            ``rank`` does; beyond that, coefficients are not unique.
        n_init: starts of the archetypal analysis, of which the best is kept; None chooses.
        tol: stop the analysis at this relative improvement of its objective.
        max_iter: sweeps of a start at most.
        layers: globs; None takes every spatial convolution.
        device: where to compute; ``auto`` is the CPU. A GPU such as ``cuda`` analyses layers of
            equal size side by side; the errors agree with the CPU's to 1 %.
        progress: told how many layers of how many are done.

    Raises:
        LayerError: no layer fits, a glob matches none, or a layer has non-finite weights.
        OptionError: an unusable number, a search that is none, or there is no such device.
        OutOfMemoryError: a layer does not fit into the GPU's memory.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.find_archetypes(checkpoint, archetypes=4, layers=["conv1.0"])
        >>> layer = found.layers["conv1.0"]
        >>> layer.model.archetypes.shape, layer.model.coefficients.shape
        ((4, 27), (4, 16))
    """
    counts, search = Counts.read(archetypes), solver_options(n_init, tol, max_iter)
    chosen = layers_to_analyse(checkpoint, layers)
    wanted = counts.by_layer(chosen)
    found = {}
    models = archetypes_of_layers(chosen, wanted, device, capped=capped, **search)
    for done, (layer, model, curve) in enumerate(models, 1):
        found[layer.name] = LayerArchetypes(
            layer.name, layer.kind, layer.shape, layer.matrix(), model, curve
        )
        if progress:
            progress(done, len(chosen))
    named = {} if capped else {"capped": False}
    return ArchetypeModels(found, {"archetypes": counts.stated(), **named, **search})
