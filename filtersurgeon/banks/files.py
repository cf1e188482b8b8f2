"""Filter banks as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from filtersurgeon.banks.bank import SCHEMA, FilterBank
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.arrays import array_names, read_arrays
from filtersurgeon.checkpoint.atomic import atomic_file, check_target
from filtersurgeon.checkpoint.folder import read_any
from filtersurgeon.checkpoint.jsontext import parse_json
from filtersurgeon.checkpoint.sinks import write_stream
from filtersurgeon.errors import CheckpointError, LayerError

_TENSOR = "kernels"
_ARRAYS = ("kernels", "filters")
_EXPECTED = "it should hold one tensor 'kernels' of shape (K, h, w)"


def read_bank(path: Path) -> FilterBank:
    """Read a bank file: a tensor ``kernels`` of shape ``(K, kh, kw)`` and its metadata.

    A file that holds one tensor of that shape, under any name, is a bank too, and so is a NumPy
    archive with an array called ``kernels`` or ``filters``.

    Raises:
        LayerError: no such tensor, or kernels that are not finite.
        CheckpointError: the file is no safetensors, PyTorch or NumPy file.
    """
    annotations: Mapping[str, str] = {}
    if path.suffix == ".npz":
        kernels = _read_archive(path)
    else:
        with read_any(path) as stored:
            name = _TENSOR if _TENSOR in stored else next(iter(stored), "")
            if not name or (len(stored) > 1 and name != _TENSOR) or len(stored[name].shape) != 3:
                raise LayerError(f"{path} is no filter bank: {_EXPECTED}")
            kernels = stored[name].array().astype(np.float64)
            annotations = stored.annotations
    if not kernels.size or not np.isfinite(kernels).all():
        raise LayerError(f"{path} is no filter bank: its kernels are empty, NaN or infinite")
    labels = _labels(annotations.get("labels", "[]"), len(kernels))
    return FilterBank(path.stem, kernels, labels, annotations.get("description", ""))


def _read_archive(path: Path) -> np.ndarray:
    try:
        names = array_names(path)
        chosen = [name for name in _ARRAYS if name in names] or names[:1]
        arrays = read_arrays(path, chosen[:1])
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{path} cannot be read as a NumPy archive: {problem}") from None
    if not arrays or arrays[0].ndim != 3 or not np.issubdtype(arrays[0].dtype, np.floating):
        raise LayerError(f"{path} is no filter bank: {_EXPECTED}")
    return arrays[0].astype(np.float64)


def _labels(text: str, count: int) -> tuple[str, ...]:
    try:
        labels = tuple(str(label) for label in parse_json(text))
    except (ValueError, TypeError):
        labels = ()
    return labels if len(labels) == count else tuple(str(k) for k in range(1, count + 1))


def save_bank(bank: FilterBank, path: str | Path, *, force: bool = False) -> None:
    """Write a bank as a safetensors file; raises CheckpointError as ``save`` does.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> bank = fs.load_bank("dog8").at((3, 3))
        >>> with TemporaryDirectory() as folder:
        ...     fs.save_bank(bank, Path(folder, "bank.safetensors"))
        ...     again = fs.load_bank(Path(folder, "bank.safetensors")).at((3, 3))
        >>> again.kernels.shape
        (8, 3, 3)
    """
    check_target(Path(path), force)
    annotations = {
        "schema": SCHEMA,
        "labels": json.dumps(list(bank.labels)),
        "description": bank.description,
    }
    tensors = {_TENSOR: StoredTensor.from_array(bank.kernels, "F64")}
    with atomic_file(Path(path)) as file:
        write_stream(Checkpoint(tensors, annotations=annotations), file)
