from filtersurgeon.checkpoint.checkpoint import Change, Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.tensor import StoredTensor

__all__ = ["Change", "Checkpoint", "HistoryEntry", "StoredTensor"]
