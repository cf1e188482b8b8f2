"""What was done to a checkpoint: history, planned changes, and the digest they start from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from filtersurgeon.checkpoint.tensor import StoredTensor


@dataclass(frozen=True)
class HistoryEntry:
    """One step of surgery.

    Attributes:
        verb: the command, as typed.
        options: the options that differ from their defaults.
        version: the version of this package.
        input: digest of the tensors that the chain of entries starts from; only the first entry
            has one, for each later input follows from the entries before it.
        resources: digests of the other files that were used, such as a bank, by name.
        data: ``name`` and ``split`` of the images that weights were chosen with, if any.
        warning: what a reader of later results has to know; empty if nothing.
    """

    verb: str
    options: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    input: str = ""
    resources: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    warning: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the entry as it is stored, without what is empty."""
        entry: dict[str, Any] = {"verb": self.verb, "options": dict(self.options)}
        rest = ("version", "input", "resources", "data", "warning")
        return entry | {k: v for k in rest if (v := getattr(self, k))}

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> HistoryEntry:
        """Read a stored entry; raises TypeError, KeyError or ValueError when it is not one."""
        return cls(
            str(item["verb"]),
            dict(item.get("options", {})),
            str(item.get("version", "")),
            str(item.get("input", "")),
            dict(item.get("resources", {})),
            {str(key): str(word) for key, word in dict(item.get("data", {})).items()},
            str(item.get("warning", "")),
        )


@dataclass(frozen=True)
class Change:
    """A planned change of one tensor.

    Attributes:
        tensor: its name.
        before: its shape now.
        after: its shape then.
        why: the step that changes it, in words.
    """

    tensor: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    why: str


def digest(tensors: Mapping[str, StoredTensor]) -> str:
    """Give a SHA-256 over names, types, shapes and bytes, whatever the order or the container.

    Returns:
        ``sha256:`` and 64 hexadecimal digits.
    """
    whole = hashlib.sha256()
    for name in sorted(tensors):
        stored = tensors[name]
        part = hashlib.sha256()
        for block in stored.blocks():
            part.update(block)
        whole.update(f"{name}\0{stored.dtype}\0{list(stored.shape)}\0{part.hexdigest()}\n".encode())
    return f"sha256:{whole.hexdigest()}"
