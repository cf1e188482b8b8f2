"""Members that equal others, two banks side by side, and several banks for one network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.banks.bank import BankSource, FilterBank, Size, load_bank
from filtersurgeon.banks.closest import unit_bank
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.filters import FilterLayer

_SAME = 1e-9  # 1 - |cosine| below which two members are one to a linear transform


def degenerate_members(bank: FilterBank, bias: bool = True) -> list[str]:
    """Say which members are constant, or the same as an earlier one but for scale and offset.

    Args:
        bank: K members.
        bias: an offset is fitted too; without it, constants are members like others and an offset
            makes a difference, and only zeros are of no use.

    Returns:
        A clause for each such member.
    """
    unit = unit_bank(bank.kernels.reshape(len(bank), -1), bias)
    cosines = np.abs(unit @ unit.T)
    found = []
    for k, label in enumerate(bank.labels):
        if not unit[k].any():
            found.append(f"member {label} is {'constant' if bias else 'zero'}")
        elif (twins := np.flatnonzero(cosines[k, :k] > 1 - _SAME)).size:
            found.append(f"member {label} is a multiple of member {bank.labels[twins[0]]}")
    return found


@dataclass(frozen=True)
class BankComparison(Tabular):
    """The matching of the members of two banks, by |cosine|.

    Attributes:
        first: K members.
        second: L members of the same size.
        cosines: ``(K, L)`` |cosine| of the mean-free members; 0 for a constant one.
        pairs: the one-to-one matching of the greatest sum of cosines, as indices
            ``(first, second)`` in the order of the first; ``min(K, L)`` of them.
    """

    first: FilterBank
    second: FilterBank
    cosines: np.ndarray
    pairs: tuple[tuple[int, int], ...]

    def __repr__(self) -> str:
        entries = (
            f"{self.first.labels[k]} - {self.second.labels[m]}: |cosine| {self.cosines[k, m]:.3f}"
            for k, m in self.pairs
        )
        return summarise(
            self,
            entries,
            first=self.first.name,
            second=self.second.name,
            cosines=self.cosines.shape,
            mean_cosine=round(self.mean_cosine, 3),
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each member of the first bank."""
        return iter(self.to_json()["members"])

    @property
    def mean_cosine(self) -> float:
        """Mean |cosine| over the pairs."""
        return float(np.mean([self.cosines[pair] for pair in self.pairs]))

    def to_json(self) -> dict[str, Any]:
        """Give the comparison in its JSON schema, ``filtersurgeon.bank-comparison/1``."""
        matched = dict(self.pairs)
        return {
            "schema": "filtersurgeon.bank-comparison/1",
            "first": self.first.name,
            "second": self.second.name,
            "size": list(self.first.kernel_size),
            "mean_cosine": self.mean_cosine,
            "members": [
                {
                    "member": label,
                    "match": self.second.labels[matched[k]] if k in matched else None,
                    "cosine": float(self.cosines[k, matched[k]]) if k in matched else None,
                    "best": self.second.labels[int(self.cosines[k].argmax())],
                    "best_cosine": float(self.cosines[k].max()),
                }
                for k, label in enumerate(self.first.labels)
            ],
        }


def compare_banks(first: FilterBank, second: FilterBank, *, crop: bool = False) -> BankComparison:
    """Match the members of two banks one to one.

    Scale, sign and mean of a member play no part, since a linear transform changes them freely.
    The matching is that of Kuhn, *The Hungarian Method for the Assignment Problem*, 1955.

    Args:
        first: one bank.
        second: the other.
        crop: where sizes differ, compare the centres that both have.

    Raises:
        OptionError: the sizes differ, or differ by an uneven number with ``crop``.

    Examples:
        >>> import filtersurgeon as fs
        >>> dog, edge = (fs.load_bank(name).at((3, 3)) for name in ("dog8", "edge"))
        >>> found = fs.compare_banks(dog, edge)
        >>> found.cosines.shape
        (8, 8)
        >>> found.pairs[:2]
        ((0, 1), (1, 3))
    """
    from scipy.optimize import linear_sum_assignment

    if crop:
        size = tuple(map(min, first.kernel_size, second.kernel_size))
        first, second = (crop_bank(bank, (size[0], size[1])) for bank in (first, second))
    if first.kernel_size != second.kernel_size:
        sizes = (f"{b.name} is {b.kernel_size[0]}x{b.kernel_size[1]}" for b in (first, second))
        raise OptionError(f"{', '.join(sizes)}; `crop` compares the centres")
    rows, columns = (unit_bank(b.kernels.reshape(len(b), -1)) for b in (first, second))
    cosines = np.minimum(np.abs(rows @ columns.T), 1.0)
    pairs = zip(*linear_sum_assignment(cosines, maximize=True), strict=True)
    return BankComparison(first, second, cosines, tuple((int(k), int(n)) for k, n in pairs))


def crop_bank(bank: FilterBank, size: Size) -> FilterBank:
    """Cut the centre out of every kernel; raises OptionError where it has no such centre."""
    margins = [have - want for have, want in zip(bank.kernel_size, size, strict=True)]
    if any(margin < 0 or margin % 2 for margin in margins):
        raise OptionError(f"{bank.name}: its kernels have no centre of {size[0]}x{size[1]}")
    top, left = (margin // 2 for margin in margins)
    kernels = bank.kernels[:, top : top + size[0], left : left + size[1]]
    return FilterBank(bank.name, kernels, bank.labels, bank.description)


_SHOWN = 3


def load_banks(banks: str | Path | FilterBank | Sequence[str | FilterBank]) -> list[BankSource]:
    """Find banks by name or file; a single one may come bare.

    Raises:
        OptionError: one of them is not found, or there are none.
        CheckpointError: a file is no bank.
    """
    if isinstance(banks, str | Path | FilterBank):
        return [load_bank(banks)]
    listed = list(banks) if isinstance(banks, Sequence) else []
    if not listed:
        raise OptionError(f"bank: {banks!r} is neither a name nor a file")
    return [load_bank(bank) for bank in listed]


def match_layers(
    sources: Sequence[BankSource], layers: Iterable[FilterLayer], network: str
) -> list[tuple[FilterLayer, FilterBank]]:
    """Give every layer that has one its bank.

    Raises:
        LayerError: no layer has one.
        OptionError: a bank of several is of no use to any layer.
    """
    layers, matched, used = list(layers), [], set()
    for layer in layers:
        for source in sources:
            if bank := source.at(layer.kernel_size):
                matched.append((layer, bank))
                used.add(id(source))
                break
    if not matched:
        names = " and ".join(source.name for source in sources)
        have = "has" if len(sources) == 1 else "have"
        raise LayerError(
            f"bank {names} {have} no kernels of the sizes in {network}: {sizes(layers)}"
        )
    idle = next((source for source in sources if id(source) not in used), None)
    if idle:
        raise OptionError(
            f"bank {idle.name} is used by no layer of {network}, whose kernels are "
            f"{sizes(layers)}: leave it out, or name it before the others"
        )
    return matched


def sizes(layers: Iterable[FilterLayer]) -> str:
    """List the kernel sizes of layers."""
    return ", ".join(f"{h}x{w}" for h, w in sorted({layer.kernel_size for layer in layers}))


def bank_notes(matched: Iterable[tuple[FilterLayer, FilterBank]], bias: bool) -> list[str]:
    """Remark on members that are constant or repeat others, once per bank."""
    notes = []
    for bank in {id(bank): bank for _, bank in matched}.values():
        found = degenerate_members(bank, bias)
        if found:
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            notes.append(f"bank {bank.name}: {'; '.join(found[:_SHOWN])}{more}")
    return notes
