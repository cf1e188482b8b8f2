"""A score for every kernel of a network, in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.checkpoint.atomic import write_bytes
from filtersurgeon.checkpoint.dtypes import encode
from filtersurgeon.checkpoint.folder import read_any
from filtersurgeon.checkpoint.header import format_header
from filtersurgeon.checkpoint.jsontext import parse_json
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import CheckpointError

SCHEMA = "filtersurgeon.kernel-scores/1"
SUFFIXES = (".safetensors", ".json")
_KEY = "kernel_scores"
MAX_KERNELS = 50_000_000
"""Scores in one JSON file; a larger network's go into safetensors."""


@dataclass(frozen=True)
class KernelScores:
    """What a method says of every kernel.

    Attributes:
        method: ``saliency``, ``lamp``, ``l1``, ``l2`` or ``random``.
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
            raise CheckpointError(f"{path} holds no kernel scores ({error})") from None


def _from_json(path: Path) -> KernelScores:
    try:
        content = parse_json(path.read_text("utf-8"), limit=MAX_KERNELS)
        layers = {name: np.array(rows, np.float64) for name, rows in content["layers"].items()}
        return _scores(content, layers)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path} holds no kernel scores ({error})") from None


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
