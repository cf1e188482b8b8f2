"""Rankings: a score for every filter of every layer, and the order that follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.errors import OptionError
from filtersurgeon.filters import ANY, FilterLayer, as_globs, layers_to_analyse
from filtersurgeon.networks.devices import AUTO, find_accelerator
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.ranking.energy import squared_norms
from filtersurgeon.ranking.kernel_scores import describe_images, filter_scores, opened_once
from filtersurgeon.ranking.method import Method, Scores, descending

if TYPE_CHECKING:
    from filtersurgeon.data.data import DataSpec, ImageRun


SCHEMA = "filtersurgeon.ranking/1"
ANNOTATION = "ranking"


@dataclass(frozen=True)
class LayerRanking:
    """The ranking of one layer.

    Attributes:
        name: the module's name.
        kind: the layer's kind.
        scores: ``(N,)`` float64, higher = more important.
        order: ``(N,)`` indices of the filters, most important first.
        statistics: numbers about the layer; ``tau_l2`` is Kendall's rank correlation with the
            order by plain L2 norm, from -1 to 1.
    """

    name: str
    kind: str
    scores: np.ndarray
    order: np.ndarray
    statistics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a ranking."""
        return {
            "name": self.name,
            "kind": self.kind,
            "filters": len(self.order),
            "scores": self.scores.tolist(),
            "order": self.order.tolist(),
            "statistics": dict(self.statistics),
        }


@dataclass(frozen=True)
class Ranking(Tabular):
    """The ranking of the filters of every layer.

    Attributes:
        method: the method's name.
        options: its options that differ from their defaults.
        layers: by module name.
        patterns: by which the layers were chosen; none for all spatial ones.
        data: name and split of the images that were looked at; empty if there were none.
    """

    method: str
    options: Mapping[str, Any]
    layers: Mapping[str, LayerRanking]
    patterns: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        entries = (
            f"{x.name}: {len(x.order)} filters, best first {', '.join(map(str, x.order[:5]))}"
            f"{', ...' if len(x.order) > 5 else ''}"
            for x in self.layers.values()
        )
        filters = sum(len(x.order) for x in self.layers.values())
        options = dict(self.options) or None
        return summarise(
            self,
            entries,
            method=self.method,
            options=options,
            layers=len(self.layers),
            filters=filters,
        )

    def to_json(self) -> dict[str, Any]:
        """Give the ranking in its JSON schema, ``filtersurgeon.ranking/1``."""
        return {
            "schema": SCHEMA,
            "method": self.method,
            "options": dict(self.options),
            **({"patterns": list(self.patterns)} if self.patterns else {}),
            **({"data": dict(self.data)} if self.data else {}),
            "layers": [layer.to_json() for layer in self.layers.values()],
        }

    def rows(self) -> Iterator[Row]:
        """Give a row for each layer."""
        for layer in self.layers.values():
            yield {
                "layer": layer.name,
                "kind": layer.kind,
                "filters": len(layer.order),
                "best first": layer.order[:8].tolist(),
                "least": layer.scores.min(initial=np.inf),
                "greatest": layer.scores.max(initial=-np.inf),
                **layer.statistics,
            }

    def records(self) -> Iterator[Row]:
        """Give a row for each filter; the most important one of a layer has the rank 0."""
        for layer in self.layers.values():
            ranks = np.empty(len(layer.order), np.int64)
            ranks[layer.order] = np.arange(len(layer.order))
            for number, (score, rank) in enumerate(zip(layer.scores, ranks, strict=True)):
                yield {
                    "layer": layer.name,
                    "kind": layer.kind,
                    "filter": number,
                    "score": float(score),
                    "rank": int(rank),
                }

    def annotate(self, checkpoint: Checkpoint) -> Checkpoint:
        """Put the ranking into a checkpoint's metadata, for the next command of a pipeline."""
        text = json.dumps(self.to_json(), separators=(",", ":"))
        return checkpoint.annotated(ANNOTATION, text)


@analyses_modules
def rank(
    checkpoint: Checkpoint,
    method: str = "archetype",
    *,
    layers: Iterable[str] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    data: ImageRun | DataSpec | str | Any | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Ranking:
    """Rank the filters of every layer by importance.

    Args:
        checkpoint: the network.
        method: the name of a file in ``ranking/methods``.
        layers: globs; None takes every spatial convolution.
        options: the method's own.
        seed: for the methods that draw numbers.
        data: for the methods that run the network: labelled images and where to run, or only the
            images, or only their source.
        device: for ``archetype``: a GPU that analyses layers of equal size side by side, such as
            ``cuda``; ``auto`` is the CPU. The errors agree with the CPU's to 1 %.
        progress: told how many layers of how many are done; or images, where it takes those.

    Raises:
        OptionError: unknown method or option; images that are missing, or given in vain.
        LayerError: no such layer, or one that cannot be ranked (named).
        ArchitectureError: the network has to be run and cannot be.
        DataError: the images do not fit the network.

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> weight = np.arange(72, dtype=np.float32).reshape(4, 2, 3, 3)
        >>> checkpoint = fs.Checkpoint({"conv.weight": fs.StoredTensor.from_array(weight, "F32")})
        >>> ranking = fs.rank(checkpoint, "l2")
        >>> ranking.layers["conv"].scores.shape
        (4,)
        >>> ranking.layers["conv"].order
        array([3, 2, 1, 0])
    """
    data = opened_once(data)
    chosen = Method(method, options, seed)
    chosen.check_images(data)
    globs = as_globs(layers)
    found = layers_to_analyse(checkpoint, globs, ANY)
    if data is not None:
        scored = filter_scores(chosen.run(checkpoint, found, data, progress))
        ranked = {x.name: _rank_layer(x, x.matrix(), Scores(scored[x.name])) for x in found}
    else:
        if device not in (AUTO, "cpu") and not chosen.uses_gpu():
            raise OptionError(f"{method} computes on the CPU; leave `device` out")
        gpu = find_accelerator(device)
        ranked = _rank_by_weights(found, chosen, gpu, progress)
    seen = {} if data is None else describe_images(data)
    return Ranking(method, chosen.used, ranked, tuple(globs), seen)


def _rank_by_weights(
    layers: Sequence[FilterLayer], method: Method, gpu: str | None, progress: Progress | None
) -> dict[str, LayerRanking]:
    ranked = {}
    if gpu is not None:
        rows = {layer.name: layer.matrix() for layer in layers}
        scored = method.score_together(rows, gpu)
        ranked = {x.name: _rank_layer(x, rows[x.name], scored[x.name]) for x in layers}
        if progress:
            progress(len(layers), len(layers))
        return ranked
    for done, layer in enumerate(layers, 1):
        filters = layer.matrix()
        ranked[layer.name] = _rank_layer(layer, filters, method.score(filters, layer.name))
        if progress:
            progress(done, len(layers))
    return ranked


def _rank_layer(layer: FilterLayer, filters: np.ndarray, found: Scores) -> LayerRanking:
    scores, order = np.asarray(found.scores, np.float64), found.order()
    by_norm = descending(squared_norms(filters))
    statistics = {**found.statistics, "tau_l2": kendall_tau(order, by_norm)}
    return LayerRanking(layer.name, layer.kind, scores, order, statistics)


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Give Kendall's tau of two orders of the same N items, from -1 (reversed) to 1 (equal).

    Orders have no ties, so tau is ``1 - 4 d / (N (N - 1))`` with ``d`` discordant pairs.
    A single item gives 1.
    """
    n = len(first)
    position = np.empty(n, np.int64)
    position[second] = np.arange(n)
    seen = position[first]
    discordant = sum(int((seen[:i] > seen[i]).sum()) for i in range(1, n))
    return 1.0 - 4.0 * discordant / (n * (n - 1)) if n > 1 else 1.0
