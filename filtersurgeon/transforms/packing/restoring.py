"""A packed checkpoint with its filters back in their places."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from filtersurgeon.checkpoint import Change, Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.checkpoint import PACKED


def unpacked(
    checkpoint: Checkpoint,
    order: Iterable[str],
    restored: Mapping[str, StoredTensor],
    changes: Iterable[Change],
) -> Checkpoint:
    """Exchange the parts of packed layers for their weights.

    Args:
        checkpoint: packed.
        order: the names of the network's tensors.
        restored: the weights of the packed layers, by name.
        changes: what became of each.
    """
    edited = checkpoint.edited(HistoryEntry("unpack"), {}, "")
    return replace(
        edited,
        tensors={name: restored.get(name) or checkpoint[name] for name in order},
        annotations={k: v for k, v in edited.annotations.items() if k != PACKED},
        changes=(*checkpoint.changes, *changes),
    )
