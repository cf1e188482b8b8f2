"""Finding banks by name or file, and their kernels by size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.banks.files import read_bank
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.registry import BANKS


class BankSource:
    """A bank that gives its kernels at the sizes that a network asks for.

    A built-in bank is a formula, good for many sizes; a file holds one size only.

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
    raise OptionError(
        f"no bank called {str(spec)!r}, and no such file{near_misses(str(spec), BANKS.names())}"
    )


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
    if stem in BANKS.names() and count.isdecimal() and int(count) > 0:
        if "count" not in BANKS.options(stem):
            raise OptionError(f"bank {stem} has a fixed number of members; there is no {name}")
        return partial(BANKS.function(stem), count=int(count))
    return None


def _fix_size(bank: FilterBank) -> BankSource:
    return BankSource(
        bank.name,
        lambda size: bank if bank.kernel_size == size else None,
        {bank.name: bank.digest},
        bank.kernel_size,
    )
