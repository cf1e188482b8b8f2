"""A score for every kernel of a network: computed, in memory, and on disk."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.atomic import write_bytes
from filtersurgeon.checkpoint.documents import parse_json, read_text, reason
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.safetensors import format_header
from filtersurgeon.checkpoint.sources import read_any
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.checkpoint.tensor import encode
from filtersurgeon.errors import CheckpointError, OptionError
from filtersurgeon.filters import FilterLayer, count_share, layers_to_analyse
from filtersurgeon.networks.opened_module import analyses_modules
from filtersurgeon.ranking.method import Method, check_kernel_method

if TYPE_CHECKING:
    from filtersurgeon.data.data import DataSpec, ImageRun

SCHEMA = "filtersurgeon.kernel-scores/1"
SUFFIXES = (".safetensors", ".json")
_KEY = "kernel_scores"
MAX_KERNELS = 50_000_000
"""Scores in one JSON file; a larger network's go into safetensors."""
_LONGEST = 1 << 29  # bytes of JSON


def mark_kernels(
    scores: Mapping[str, NDArray[np.float64]], share: float, *, best: bool = False
) -> dict[str, NDArray[np.bool_]]:
    """Mark the worst or best kernels of a network, all layers ordered together.

    Args:
        scores: layer -> (out, in/groups).
        share: of all kernels; their number is rounded down.
        best: the best ones instead of the worst.

    Returns:
        layer -> (out, in/groups), which kernels are meant.
    """
    flat = np.concatenate([values.ravel() for values in scores.values()])
    chosen = np.zeros(len(flat), bool)
    order = np.argsort(-flat if best else flat, kind="stable")
    chosen[order[: count_share(share, len(flat))]] = True
    cuts = np.cumsum([values.size for values in scores.values()])[:-1]
    parts = zip(scores.items(), np.split(chosen, cuts), strict=True)
    return {name: part.reshape(values.shape) for (name, values), part in parts}


@dataclass(frozen=True)
class KernelScores(Tabular):
    """The scores of all kernels of a network, by a method.

    Attributes:
        method: the ranking method's name.
        options: its options that differ from their defaults.
        layers: by module name, float64, not negative; higher = more important. One for each
            kernel, as the first two axes of the weight: ``(out, in/groups)``, of a transposed
            convolution ``(in, out/groups)``.
        images: how many images were looked at; 0 for methods that look at none.
        data: name and split of these images.

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> scores = fs.KernelScores("l1", layers={"conv": np.array([[1.0, 2.0], [0.0, 4.0]])})
        >>> scores.n_kernels
        4
        >>> scores.per_filter()["conv"]
        array([3., 4.])
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    images: int = 0
    data: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        entries = (
            f"{name}: {x.shape}, {x.min(initial=np.inf):.3g} to {x.max(initial=0.0):.3g}"
            for name, x in self.layers.items()
        )
        return summarise(
            self,
            entries,
            method=self.method,
            options=dict(self.options) or None,
            layers=len(self.layers),
            kernels=self.n_kernels,
            images=self.images,
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each layer."""
        for name, scores in self.layers.items():
            yield {
                "layer": name,
                "kernels": scores.size,
                "least": scores.min(initial=np.inf),
                "mean": scores.mean() if scores.size else None,
                "greatest": scores.max(initial=-np.inf),
            }

    def records(self) -> Iterator[Row]:
        """Give a row for each kernel, with its place on the first two axes of the weight."""
        for name, scores in self.layers.items():
            for (row, column), score in np.ndenumerate(scores):
                yield {"layer": name, "row": row, "column": column, "score": float(score)}

    @property
    def n_kernels(self) -> int:
        """Number of kernels of all layers."""
        return sum(scores.size for scores in self.layers.values())

    def per_filter(self) -> dict[str, np.ndarray]:
        """Sum over the kernels of each row of a weight, a filter unless the layer is transposed."""
        return {name: scores.sum(axis=1) for name, scores in self.layers.items()}

    def description(self) -> dict[str, Any]:
        """Give all but the scores as JSON."""
        return {
            "schema": SCHEMA,
            "method": self.method,
            "options": dict(self.options),
            "images": self.images,
            **({"data": dict(self.data)} if self.data else {}),
        }

    def to_json(self) -> dict[str, Any]:
        """Give the scores in their JSON schema, ``filtersurgeon.kernel-scores/1``."""
        layers = {name: scores.tolist() for name, scores in self.layers.items()}
        return {**self.description(), "layers": layers}


@analyses_modules
def kernel_scores(
    checkpoint: Checkpoint,
    method: str = "saliency",
    *,
    data: ImageRun | DataSpec | str | Any | None = None,
    options: Mapping[str, Any] | None = None,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    file: str | Path | None = None,
    progress: Progress | None = None,
) -> KernelScores:
    """Score every kernel of a network, comparable over all its layers.

    ``saliency`` needs labelled images. The ranking methods that look at weights take every kernel
    in place of a filter: ``l1`` and ``l2`` are the norms of the kernels, ``lamp`` the squared norm
    relative to all stronger kernels of the layer, ``random`` draws from U[0, 1). Methods that
    compare the filters of one layer with each other do not score kernels.

    Args:
        checkpoint: the network.
        method: a ranking method, the name of a file in ``ranking/methods``.
        data: labelled images and where to run, or only the images, or only their source.
        options: the method's own; of ``saliency``, ``batch_size`` (4), ``gradient`` (False) and
            ``rescale`` (True).
        layers: globs; None takes every convolution whose kernels are larger than 1x1.
        seed: random seed of the methods that draw numbers, and of the order of the images.
        file: where ``saliency`` keeps its sums, a ``.safetensors`` file of scores. An interrupted
            run with the same arguments goes on from it, to the same bits.
        progress: told images done and images in all; without images, layers.

    Returns:
        Scores of every layer, float64, higher = more important: as many as its weight has kernels,
        ``(out, in/groups)``, or ``(in, out/groups)`` for a transposed convolution.

    Raises:
        OptionError: an unknown method or option, images missing or given in vain, or a file of
            another run.
        LayerError: no such layer, or one with values that are not finite.
        ArchitectureError: the network cannot be built, or does not take such images.
        DataError: the images do not fit it, cannot be read, or have no labels.
        OutOfMemoryError: a minibatch does not fit.

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> weight = np.arange(72, dtype=np.float32).reshape(4, 2, 3, 3)
        >>> checkpoint = fs.Checkpoint({"conv.weight": fs.StoredTensor.from_array(weight, "F32")})
        >>> fs.kernel_scores(checkpoint, "l1").layers["conv"]
        array([[ 36., 117.],
               [198., 279.],
               [360., 441.],
               [522., 603.]])
    """
    check_kernel_method(method)
    data = opened_once(data)
    chosen = layers_to_analyse(checkpoint, layers)
    return score_layers(
        checkpoint, chosen, method, data=data, options=options, seed=seed, file=file,
        progress=progress,
    )  # fmt: skip


def score_layers(
    checkpoint: Checkpoint,
    chosen: Sequence[FilterLayer],
    method: str,
    *,
    data: ImageRun | DataSpec | str | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    file: str | Path | None = None,
    progress: Progress | None = None,
) -> KernelScores:
    """Score every kernel of given layers, of however many axes; see :func:`kernel_scores`."""
    check_kernel_method(method)
    scorer = Method(method, options, seed)
    scorer.check_images(data)
    if data is None:
        if file is not None:
            raise OptionError(f"{method} uses no images, so there is nothing to resume")
        return _score_weights(chosen, scorer, progress)
    found = scorer.run(checkpoint, chosen, data, progress, file)
    if isinstance(found, KernelScores):
        return found
    if any(np.ndim(found[layer.name]) != 2 for layer in chosen):
        raise OptionError(f"{method} ranks filters, not kernels; add `per_layer` to prune by it")
    layers = {layer.name: np.asarray(found[layer.name], np.float64) for layer in chosen}
    return KernelScores(method, scorer.used, layers, data=describe_images(data))


def _score_weights(
    layers: Sequence[FilterLayer], method: Method, progress: Progress | None
) -> KernelScores:
    found = {}
    for done, layer in enumerate(layers, 1):
        kernels = layer.matrix().reshape(layer.n_kernels, -1)
        scores = method.score(kernels, layer.name).scores
        found[layer.name] = np.asarray(scores, np.float64).reshape(layer.shape[:2])
        if progress:
            progress(done, len(layers))
    return KernelScores(method.name, method.used, found)


def filter_scores(found: KernelScores | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give what a method that runs the network found as a score for every row of a weight.

    Args:
        found: scores of kernels, which are summed, or of filters.

    Returns:
        By layer name, ``(N,)``.
    """
    layers = found.layers if isinstance(found, KernelScores) else found
    return {name: x if np.ndim(x) == 1 else x.sum(axis=1) for name, x in layers.items()}


def opened_once(data: Any) -> ImageRun | None:
    """Give a run on images, of whatever form they are given in; None for none."""
    if data is None:
        return None
    from filtersurgeon.data.data import as_run

    return as_run(data)


def describe_images(data: ImageRun | DataSpec | str) -> dict[str, str]:
    """Name the images that a method looks at, and their split, as JSON."""
    from filtersurgeon.data.data import as_run, part_of
    from filtersurgeon.data.splits import FIT

    return part_of(as_run(data).data, FIT).described()


def write_kernel_scores(
    scores: KernelScores, path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write scores as safetensors (a float64 tensor per layer) or as JSON, atomically.

    Args:
        scores: what to write.
        path: ends in ``.safetensors`` or ``.json``.
        metadata: further strings for a safetensors file.

    Raises:
        CheckpointError: another ending, or the file cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> scores = fs.KernelScores("l1", layers={"conv": np.ones((4, 2))})
        >>> with TemporaryDirectory() as folder:
        ...     fs.write_kernel_scores(scores, Path(folder, "scores.json"))
        ...     fs.read_kernel_scores(Path(folder, "scores.json")).layers["conv"].shape
        (4, 2)
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix == ".json":
        write_bytes(path, (json.dumps(scores.to_json()) + "\n").encode())
        return
    described = json.dumps(scores.description(), sort_keys=True)
    shapes = {name: ("F64", values.shape) for name, values in scores.layers.items()}
    header = format_header(shapes, {_KEY: described, **(metadata or {})})
    body = (encode(values, "F64").tobytes() for values in scores.layers.values())
    write_bytes(path, b"".join((header, *body)))


def read_kernel_scores(path: str | Path) -> KernelScores:
    """Read scores that :func:`write_kernel_scores` wrote.

    Raises:
        CheckpointError: the file is missing or holds no scores, or only some of those that were
            asked for.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> scores = fs.kernel_scores(fs.untrained("timm:test_resnet"), "l1")
        >>> with TemporaryDirectory() as folder:
        ...     fs.write_kernel_scores(scores, Path(folder, "l1.safetensors"))
        ...     again = fs.read_kernel_scores(Path(folder, "l1.safetensors"))
        >>> again.layers["conv1.0"].shape
        (16, 3)
    """
    path = Path(path)
    _check_suffix(path)
    if path.suffix == ".json":
        return _from_json(path)
    scores, metadata = read_with_metadata(path)
    if "unfinished" in metadata:
        raise CheckpointError(
            f"{path}: the run that wrote it was interrupted; repeat its command to go on"
        )
    return scores


def read_with_metadata(path: Path) -> tuple[KernelScores, Mapping[str, str]]:
    """Read a safetensors file of scores, finished or not, and its further strings.

    Raises:
        CheckpointError: it is missing or holds no scores.
    """
    with read_any(path) as stored:
        if _KEY not in stored.annotations:
            raise CheckpointError(f"{path} holds no kernel scores")
        layers = {name: tensor.array().copy() for name, tensor in stored.tensors.items()}
        rest = {key: text for key, text in stored.annotations.items() if key != _KEY}
        try:
            described = parse_json(stored.annotations[_KEY])
            return _scores(described, layers), rest
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise CheckpointError(f"{path} holds no kernel scores ({reason(error)})") from None


def _from_json(path: Path) -> KernelScores:
    try:
        content = parse_json(read_text(path, _LONGEST), limit=MAX_KERNELS)
        layers = {name: np.array(rows, np.float64) for name, rows in content["layers"].items()}
        return _scores(content, layers)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path} holds no kernel scores ({reason(error)})") from None


def _scores(content: Mapping[str, Any], layers: Mapping[str, np.ndarray]) -> KernelScores:
    if content["schema"] != SCHEMA:
        raise ValueError(f"its schema is {content['schema']!r}")
    if any(values.ndim != 2 for values in layers.values()):
        raise ValueError("a layer's scores are not a matrix, one for each kernel")
    images, data = int(content["images"]), dict(content.get("data", {}))
    return KernelScores(content["method"], dict(content["options"]), layers, images, data)


def _check_suffix(path: Path) -> None:
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: kernel scores end in {' or '.join(SUFFIXES)}")
