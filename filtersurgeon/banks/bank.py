"""Filter banks: K named kernels of one spatial size; by name, from files, and to files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.banks.scale_space import ORDERS, Derivative, can_fit, derivative
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.arrays import array_names, read_arrays
from filtersurgeon.checkpoint.atomic import atomic_file, check_target
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.sinks import write_stream
from filtersurgeon.checkpoint.sources import read_any
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import CheckpointError, LayerError, OptionError, near_misses
from filtersurgeon.registry import BANKS

SCHEMA = "filtersurgeon.bank/1"

Size = tuple[int, int]


@dataclass(frozen=True)
class FilterBank:
    """K kernels of one size.

    Attributes:
        name: what users call it.
        kernels: ``(K, kh, kw)`` float64.
        labels: one name for each kernel.
        description: what it is and where it comes from.
        derivatives: the formulas of the members, where they are derivatives of Gaussians; such a
            bank has kernels of every odd size.

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> kernels = np.array([[[-1.0, 0, 1]] * 3, [[1, 1, 1], [0, 0, 0], [-1, -1, -1]]])
        >>> bank = fs.FilterBank("prewitt", kernels, ("x", "y"))
        >>> bank
        FilterBank(name='prewitt', kernels=2, size='3x3')
          x
          y
        >>> bank.kernel_size, bank.kernels.shape
        ((3, 3), (2, 3, 3))
    """

    name: str
    kernels: np.ndarray
    labels: tuple[str, ...]
    description: str = ""
    derivatives: tuple[Derivative, ...] = ()

    def __repr__(self) -> str:
        size = "x".join(map(str, self.kernels.shape[1:]))
        return summarise(self, self.labels, name=self.name, kernels=len(self.kernels), size=size)

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


_WIDEST = 1e3  # scale of a derivative, in pixels
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
                raise LayerError(f"{path} is not a filter bank: {_EXPECTED}")
            kernels = stored[name].array().astype(np.float64)
            annotations = stored.annotations
    if not kernels.size or not np.isfinite(kernels).all():
        raise LayerError(f"{path} is not a filter bank: its kernels are empty, NaN or infinite")
    labels = _labels(annotations.get("labels", "[]"), len(kernels))
    text = annotations.get("description", "")
    if "derivatives" in annotations:
        members = _derivatives(annotations["derivatives"], path)
        made = bank_of_derivatives(path.stem, members, kernels.shape[1:], text)
        if made is None or not np.allclose(made.kernels, kernels, atol=1e-6):
            raise LayerError(f"{path} is corrupt: its kernels are not the derivatives it names")
        return made
    return FilterBank(path.stem, kernels, labels, text)


def _derivatives(text: str, path: Path) -> list[Derivative]:
    """Read the formulas of members; raises LayerError."""
    try:
        found = [Derivative(str(a), float(b), float(c)) for a, b, c in parse_json(text)]
    except (ValueError, TypeError):
        found = []
    scales = [value for each in found for value in each[1:]]
    fits = all(each.order in ORDERS for each in found)
    if not found or not fits or not all(0 < value < _WIDEST for value in scales):
        raise LayerError(f"{path} is corrupt: it does not name derivatives of Gaussians")
    return found


def bank_of_derivatives(
    name: str, derivatives: Sequence[Derivative], size: Size, description: str = ""
) -> FilterBank | None:
    """Make a bank of derivatives of Gaussians at a kernel size.

    Returns:
        The bank; None unless both sides are odd and at least 3.
    """
    if not can_fit(size):
        return None
    kernels = np.stack([derivative(*each, size) for each in derivatives])
    labels = tuple(f"{x.order} {x.sigma_x:g},{x.sigma_y:g}" for x in derivatives)
    return FilterBank(name, kernels, labels, description, tuple(derivatives))


def _read_archive(path: Path) -> np.ndarray:
    try:
        names = array_names(path)
        chosen = [name for name in _ARRAYS if name in names] or names[:1]
        arrays = read_arrays(path, chosen[:1])
    except (OSError, ValueError) as problem:
        raise CheckpointError(f"{path} cannot be read as a NumPy archive: {problem}") from None
    if not arrays or arrays[0].ndim != 3 or not np.issubdtype(arrays[0].dtype, np.floating):
        raise LayerError(f"{path} is not a filter bank: {_EXPECTED}")
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
    if bank.derivatives:
        annotations["derivatives"] = json.dumps([list(each) for each in bank.derivatives])
    tensors = {_TENSOR: StoredTensor.from_array(bank.kernels, "F64")}
    with atomic_file(Path(path)) as file:
        write_stream(Checkpoint(tensors, annotations=annotations), file)


class BankSource:
    """A bank with kernels of every size that a network needs.

    A built-in bank is a formula, good for many sizes, and so is a file of derivatives of
    Gaussians; other files hold one size only.

    Attributes:
        name: the bank's name.
        resources: digest of the kernels by name, unless they are built in.
        size: the only size, of a bank that is no formula; else None.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Size], FilterBank | None],
        resources: Mapping[str, str] | None = None,
        size: Size | None = None,
    ) -> None:
        self.size = size
        self.name = name
        self.resources = dict(resources or {})
        self._make = make
        self._made: dict[Size, FilterBank | None] = {}

    def __repr__(self) -> str:
        size = "x".join(map(str, self.size)) if self.size else None
        return summarise(self, name=self.name, size=size)

    def at(self, size: Size) -> FilterBank | None:
        """Give the bank at a kernel size, or None if it has no kernels of that size."""
        if size not in self._made:
            self._made[size] = self._make(size)
        return self._made[size]


def load_bank(spec: str | Path | FilterBank) -> BankSource:
    """Find a bank by name or file.

    Args:
        spec: a built-in bank's name, such as ``dog8`` or ``dct-10``, the path of a bank file, or a
            bank.

    Raises:
        OptionError: neither a built-in bank nor a file.
        CheckpointError: the file is no bank.

    Examples:
        >>> import filtersurgeon as fs
        >>> fs.load_bank("dog8").at((5, 5)).kernels.shape
        (8, 5, 5)
    """
    if isinstance(spec, FilterBank):
        return _fix_size(spec)
    if not isinstance(spec, str | Path):
        raise OptionError(f"bank: {spec!r} is neither a name nor a file")
    built_in = _find_built_in(str(spec))
    if built_in:
        return BankSource(str(spec), built_in)
    if _is_file(spec):
        return _fix_size(read_bank(Path(spec)))
    if os.path.lexists(spec):
        raise OptionError(f"bank {spec} is not a regular file")
    raise OptionError(
        f"no bank called {str(spec)!r}, and no such file{near_misses(str(spec), BANKS.names())}"
    )


MOST_MEMBERS = 1_000_000
"""Of a built-in bank, whose number a recipe may choose."""
_DIGITS = 9


def _is_file(spec: str | Path) -> bool:
    try:
        return Path(spec).is_file()
    except (OSError, ValueError):  # longer than a name can be, or with a zero in it
        return False


def _find_built_in(name: str) -> Callable[[Size], FilterBank | None] | None:
    """Find the function of a built-in bank; ``NAME-K`` asks bank ``NAME`` for K members."""
    if name in BANKS.names():
        return BANKS.function(name)
    stem, _, count = name.rpartition("-")
    if stem in BANKS.names() and count.isdecimal() and count.strip("0"):
        if "count" not in BANKS.options(stem):
            raise OptionError(f"bank {stem} has a fixed number of members; there is no {name}")
        if len(count) > _DIGITS or int(count) > MOST_MEMBERS:
            raise OptionError(f"bank {stem} has at most {MOST_MEMBERS:,} members")
        return partial(BANKS.function(stem), count=int(count))
    return None


def _fix_size(bank: FilterBank) -> BankSource:
    """Give a bank as a source of its only size, or of every size that its formulas have."""
    resources = {bank.name: bank.digest}
    if bank.derivatives:

        def make(size: Size) -> FilterBank | None:
            return bank_of_derivatives(bank.name, bank.derivatives, size, bank.description)

        return BankSource(bank.name, make, resources)
    return BankSource(
        bank.name,
        lambda size: bank if bank.kernel_size == size else None,
        resources,
        bank.kernel_size,
    )
