"""The name by which timm or torchvision makes a module that is in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.networks.build import build
from filtersurgeon.networks.dry_run import find_size
from filtersurgeon.networks.in_memory import InMemory
from filtersurgeon.networks.outputs import output_difference
from filtersurgeon.networks.signature import names_hash, read_index
from filtersurgeon.networks.skeleton import make

if TYPE_CHECKING:
    from torch import nn

_SAME = 1e-6
"""Largest relative difference of outputs; both networks run on the same tensors."""


def name_known_module(checkpoint: Checkpoint) -> Checkpoint:
    """State the architecture of a module in memory as timm or torchvision has it.

    A file can then be read without the module. The network of the library consists of modules of
    the same names and classes, and gives the same outputs for the checkpoint's tensors.

    Args:
        checkpoint: of any network.

    Returns:
        The checkpoint with the library's architecture; as it is if it is of no module in memory,
        if the module takes more than an image, or if no library makes it.
    """
    held = checkpoint.architecture
    if not isinstance(held, InMemory) or held.inputs is not None:
        return checkpoint
    try:
        model = build(checkpoint).float()
        size = find_size(model, checkpoint)
        for name in _nominate(held.module):
            named = replace(checkpoint, architecture=name)
            other = build(named).float()
            if output_difference(model, other, size) <= _SAME:
                return named
    except FilterSurgeonError:
        pass  # the network is written without a name, as any other
    return checkpoint


def _nominate(module: nn.Module) -> Iterator[str]:
    """List architectures of modules with the same names and classes, the stated one first."""
    wanted = names_hash(module.state_dict())
    cfg = getattr(module, "pretrained_cfg", None) or {}
    stated = f"timm:{cfg.get('architecture')}"
    names = [entry.architecture for entry in read_index().entries if entry.names == wanted]
    for name in sorted(names, key=lambda name: name != stated):
        if _classes(make(name)) == _classes(module):
            yield name


def _classes(module: nn.Module) -> dict[str, tuple[str, str]]:
    return {
        name: (type(part).__module__, type(part).__qualname__)
        for name, part in module.named_modules()
    }
