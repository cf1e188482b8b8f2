"""Variants of a network with pre-defined filters, written as words: ``reduced-pfm+no-relu``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.source import load_bank
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.torch_bridge import from_torch
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.networks.build import build
from filtersurgeon.networks.structure import replay
from filtersurgeon.networks.structure.edits.smoothed import leaves_out
from filtersurgeon.networks.structure.edits.unskipped import skips
from filtersurgeon.transforms.convert import convert
from filtersurgeon.transforms.predefined.settings import MODULES, PFM

NETWORK = "network"
SWITCHES = ("no-relu", "aliasing", "smooth", "no-skips", "trainable")
_RANDOM = "random-"


@dataclass(frozen=True)
class Variant:
    """A network, converted or not.

    Attributes:
        name: the words that it was written as.
        module: ``network`` as it is, ``pfm`` or ``reduced-pfm``.
        bank: name of a bank; empty for a network as it is.
        switches: of ``SWITCHES``.
    """

    name: str
    module: str
    bank: str = ""
    switches: frozenset[str] = frozenset()


def read_variant(text: str) -> Variant:
    """Read ``MODULE``, ``MODULE+BANK``, and switches behind further plus signs.

    Without a bank a ``pfm`` has ``edge-line-9``, a ``reduced-pfm`` ``edge-line-16``, as in Linse,
    *Towards Understanding CNNs Through Visualization and Systematic Simplification*, 2025,
    chapters 6 and 7.

    Raises:
        OptionError: an unknown word, or one that does nothing here.
    """
    module, *words = (word.strip() for word in text.split("+"))
    known = (NETWORK, *MODULES)
    if module not in known:
        raise OptionError(f"variants: no module {module!r}{near_misses(module, known)}")
    switches = frozenset(word for word in words if word in SWITCHES)
    banks = [word for word in words if word not in SWITCHES]
    if module == NETWORK:
        wrong = next((w for w in words if w not in ("smooth", "no-skips")), None)
        if wrong:
            raise OptionError(f"variants: {text}: {wrong} goes with pfm or reduced-pfm")
        return Variant(text, module, "", switches)
    if "smooth" in switches:
        raise OptionError(f"variants: {text} is smoothed anyway; aliasing switches that off")
    if len(banks) > 1:
        hint = near_misses(banks[-1], SWITCHES)
        raise OptionError(f"variants: {text} names {' and '.join(banks)}; one bank is enough{hint}")
    bank = banks[0] if banks else ("edge-line-9" if module == PFM else "edge-line-16")
    load_bank(bank).at((3, 3))
    return Variant(text, module, bank, switches)


def make_variant(checkpoint: Checkpoint, variant: Variant, seed: int) -> Checkpoint:
    """Convert a network.

    Args:
        checkpoint: the network.
        variant: what to make of it.
        seed: of the weights, and of the filters of a bank ``random-K``.

    Raises:
        LayerError: there are no skip connections to take out or to smooth.
    """
    made = checkpoint
    if variant.module != NETWORK:
        learn = "trainable" in variant.switches
        made = convert(
            made, module=variant.module, bank=_bank(variant.bank, seed),
            relu="no-relu" not in variant.switches, trainable=learn, own_filters=learn,
            smooth_skips="aliasing" not in variant.switches, seed=seed,
        )  # fmt: skip
    if "smooth" in variant.switches:
        made = _edit(made, "smoothed")
    return _edit(made, "unskipped") if "no-skips" in variant.switches else made


def _bank(name: str, seed: int) -> str | FilterBank:
    """Draw random filters anew for every seed; other banks are always the same."""
    count = name.removeprefix(_RANDOM)
    if not name.startswith(_RANDOM) or not count.isdecimal():
        return name
    from filtersurgeon.banks.builtin.random import random

    return random((3, 3), count=int(count), seed=seed)


def _edit(checkpoint: Checkpoint, kind: str) -> Checkpoint:
    """Smooth or take out every skip connection."""
    model = build(checkpoint)
    found = {"smoothed": leaves_out, "unskipped": skips}[kind]
    modules = [name for name, module in model.named_modules() if found(module)]
    if not modules:
        raise LayerError(f"{checkpoint.name} has no skip connection of the kind that is {kind}")
    edit: dict[str, Any] = {"edit": kind, "modules": modules}
    replay(model, [edit])
    tensors = {
        name: checkpoint.tensors.get(name) or from_torch(tensor, name)
        for name, tensor in model.state_dict().items()
    }
    edited = checkpoint.edited(HistoryEntry("convert", {kind: True}), {}, "")
    return replace(edited, tensors=tensors, structure=(*checkpoint.structure, edit))
