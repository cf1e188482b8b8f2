"""Filter banks: K named kernels of one spatial size, built in or in a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.atomic import atomic_file, check_target
from filtersurgeon.checkpoint.folder import read_any
from filtersurgeon.checkpoint.sinks import write_stream
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.registry import BANKS

SCHEMA = "filtersurgeon.bank/1"
_TENSOR = "kernels"

Size = tuple[int, int]


@dataclass(frozen=True)
class FilterBank:
    """K kernels of one size.

    Attributes:
        name: what users call it.
        kernels: ``(K, kh, kw)`` float64.
        labels: one name for each kernel.
        description: what it is and where it comes from.
    """

    name: str
    kernels: np.ndarray
    labels: tuple[str, ...]
    description: str = ""

    def __len__(self) -> int:
        return len(self.kernels)

    @property
    def kernel_size(self) -> Size:
        """Height and width of every kernel."""
        return self.kernels.shape[1], self.kernels.shape[2]

    @property
    def digest(self) -> str:
        """SHA-256 of the kernels, which identifies a bank whatever its file is called."""
        text = f"{self.kernels.shape}".encode() + self.kernels.astype("<f8").tobytes()
        return f"sha256:{hashlib.sha256(text).hexdigest()}"

    def to_json(self) -> dict[str, Any]:
        """Give the bank in its JSON schema, ``filtersurgeon.bank/1``."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "description": self.description,
            "labels": list(self.labels),
            "kernels": self.kernels.tolist(),
        }


class BankSource:
    """A bank that gives its kernels at the sizes that a network asks for.

    A built-in bank is a formula, good for many sizes; a file holds one size only.

    Attributes:
        name: the bank's name.
        resources: digest of the kernels by name, unless they are built in.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Size], FilterBank | None],
        resources: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.resources = dict(resources or {})
        self._make = make
        self._made: dict[Size, FilterBank | None] = {}

    def at(self, size: Size) -> FilterBank | None:
        """Give the bank at a kernel size, or None if it has no kernels of that size."""
        if size not in self._made:
            self._made[size] = self._make(size)
        return self._made[size]


def load_bank(spec: str | Path | FilterBank) -> BankSource:
    """Find a bank by name or file.

    Args:
        spec: a built-in bank's name, the path of a bank file, or a bank.

    Raises:
        OptionError: neither a built-in bank nor a file.
        CheckpointError: the file is no bank.
    """
    if isinstance(spec, FilterBank):
        return _fixed(spec)
    if not isinstance(spec, str | Path):
        raise OptionError(f"bank: {spec!r} is neither a name nor a file")
    if str(spec) in BANKS.names():
        function = BANKS.function(str(spec))
        return BankSource(str(spec), function)
    if Path(spec).is_file():
        return _fixed(read_bank(Path(spec)))
    raise OptionError(
        f"no bank called {str(spec)!r}, and no such file{near_misses(str(spec), BANKS.names())}"
    )


def _fixed(bank: FilterBank) -> BankSource:
    return BankSource(
        bank.name,
        lambda size: bank if bank.kernel_size == size else None,
        {bank.name: bank.digest},
    )


def read_bank(path: Path) -> FilterBank:
    """Read a bank file: a tensor ``kernels`` of shape ``(K, kh, kw)`` and its metadata.

    A file that holds one tensor of that shape, under any name, is a bank too.

    Raises:
        LayerError: no such tensor, or kernels that are not finite.
        CheckpointError: the file is no safetensors or PyTorch file.
    """
    with read_any(path) as stored:
        name = _TENSOR if _TENSOR in stored else next(iter(stored), "")
        if not name or (len(stored) > 1 and name != _TENSOR) or len(stored[name].shape) != 3:
            raise LayerError(
                f"{path} is no filter bank: it should hold one tensor 'kernels' of shape (K, h, w)"
            )
        kernels = stored[name].array().astype(np.float64)
        annotations = stored.annotations
    if not kernels.size or not np.isfinite(kernels).all():
        raise LayerError(f"{path} is no filter bank: its kernels are empty, NaN or infinite")
    labels = _labels(annotations.get("labels", "[]"), len(kernels))
    return FilterBank(path.stem, kernels, labels, annotations.get("description", ""))


def _labels(text: str, count: int) -> tuple[str, ...]:
    try:
        labels = tuple(str(label) for label in json.loads(text))
    except (ValueError, TypeError, RecursionError):
        labels = ()
    return labels if len(labels) == count else tuple(str(k) for k in range(1, count + 1))


def save_bank(bank: FilterBank, path: str | Path, *, force: bool = False) -> None:
    """Write a bank as a safetensors file; raises CheckpointError as ``save`` does."""
    check_target(Path(path), force)
    annotations = {
        "schema": SCHEMA,
        "labels": json.dumps(list(bank.labels)),
        "description": bank.description,
    }
    tensors = {_TENSOR: StoredTensor.from_array(bank.kernels, "F64")}
    with atomic_file(Path(path)) as file:
        write_stream(Checkpoint(tensors, annotations=annotations), file)
