"""Decoded filters as a file of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from filtersurgeon.checkpoint.atomic import check_ending, write_bytes
from filtersurgeon.see.decoding import Decoded


def check_filters_path(path: str | None, force: bool = False) -> None:
    """Refuse, before any work, a file of filters that cannot be written.

    Raises:
        OptionError: it does not end in .safetensors.
        CheckpointError: the path cannot be written.
    """
    wrong = "filters are written as tensors; end the name in .safetensors"
    check_ending(path, (".safetensors",), wrong, force)


def save_filters(found: Sequence[Decoded], path: str | Path) -> None:
    """Write one tensor ``(units, channels, height, width)`` per layer, under its name.

    Raises:
        CheckpointError: the file cannot be written.
    """
    from safetensors.numpy import save

    tensors = {x.layer or "output": np.ascontiguousarray(x.filters) for x in found}
    units = {f"units:{x.layer or 'output'}": ",".join(map(str, x.units)) for x in found}
    write_bytes(Path(path), save(tensors, {"format": "filtersurgeon.decoded/1", **units}))
