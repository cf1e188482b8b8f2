"""Several banks for one network: each layer takes the first that has kernels of its size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from filtersurgeon.banks.bank import FilterBank
from filtersurgeon.banks.degenerate import degenerate_members
from filtersurgeon.banks.source import BankSource, load_bank
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.filters import FilterLayer

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
