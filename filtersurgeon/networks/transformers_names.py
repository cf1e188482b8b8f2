"""Names of tensors in files of transformers, which that library may change when it reads them."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.transformers_config import LIBRARY
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.skeleton import make


def rename_as_transformers(checkpoint: Checkpoint) -> Checkpoint:
    """Give the tensors of a file of transformers the names that the network has.

    Files keep the names of the network's first version, which the library changes when it reads
    them. Without the library, the names stay; what needs the network then says so.
    """
    architecture = checkpoint.architecture or ""
    if not architecture.startswith(f"{LIBRARY}:") or checkpoint.history or not find_spec(LIBRARY):
        return checkpoint
    try:
        network: Any = make(architecture)
    except ArchitectureError:
        return checkpoint  # told where the network is needed
    own = network.state_dict()
    if own.keys() <= checkpoint.tensors.keys():
        return checkpoint
    names = _renamed(network, checkpoint, own)
    if len(set(names.values())) < len(names) or not own.keys() & set(names.values()):
        return checkpoint
    return replace(checkpoint, tensors={new: checkpoint.tensors[old] for old, new in names.items()})


def _renamed(network: Any, checkpoint: Checkpoint, own: dict[str, Any]) -> dict[str, str]:
    """Map the names in the file to those of the network, as ``from_pretrained`` does."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            rename_source_key,
        )
    except ImportError:  # before version 5, which names no conversions
        return {name: name for name in checkpoint.tensors}
    steps = get_model_conversion_mapping(network)
    renamings = [step for step in steps if isinstance(step, WeightRenaming)]
    converters = [step for step in steps if isinstance(step, WeightConverter)]
    prefix = network.base_model_prefix
    return {
        name: rename_source_key(name, renamings, converters, prefix, own)[0]
        for name in sorted(checkpoint.tensors)
    }
