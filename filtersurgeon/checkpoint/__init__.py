from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.provenance import Change, HistoryEntry
from filtersurgeon.checkpoint.tensor import StoredTensor

__all__ = ["Change", "Checkpoint", "HistoryEntry", "StoredTensor"]
