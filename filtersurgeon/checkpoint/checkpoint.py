"""A checkpoint: named tensors, what is known about their network, and what was done to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any

from filtersurgeon import __version__
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.naming import is_factory
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.checkpoint.tables import Row, Tabular
from filtersurgeon.checkpoint.tensor import StoredTensor
from filtersurgeon.checkpoint.weight_parts import in_parts
from filtersurgeon.errors import CheckpointError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class HistoryEntry:
    """One operation on a checkpoint.

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


MOST_TENSORS = 50_000
"""Tensors of one checkpoint; each takes time in every command."""


def check_count(tensors: int, source: str) -> None:
    """Refuse a checkpoint of more tensors than any network has.

    Raises:
        CheckpointError: there are too many.
    """
    if tensors > MOST_TENSORS:
        raise CheckpointError(
            f"{source} holds {tensors:,} tensors, and at most {MOST_TENSORS:,} are read; "
            "save the state dict of one network"
        )


PACKED = "packed"
"""Key of the metadata that describes packed layers."""

NAMES = "names"
"""Key of the metadata that gives the network's own name of tensors that are stored under others."""

_JSON_KEYS = ("pretrained_cfg", "structure", "history")


def _do_nothing() -> None:
    return


@dataclass(frozen=True)
class Checkpoint(Tabular):
    """The tensors of a network, read when they are needed, with its architecture and history.

    Attributes:
        tensors: name -> tensor, in the order in which they are stored.
        name: what messages call it; never stored.
        architecture: ``timm:NAME`` or ``torchvision:NAME``, with arguments that differ from the
            library's own, ``timm:NAME(output_stride=8)``; None when unknown.
        pretrained_cfg: timm's description of preprocessing and classes, or None.
        structure: the edits that change the module tree, to be replayed by ``build``.
        history: the steps that made it.
        annotations: further strings of the file's metadata, carried along.
        changes: the tensors that differ from the original's, as long as they are not yet written.
        notes: remarks for people about how it was read.
        original: the checkpoint that a chain of edits began with.
        stored_names: the name that a tensor has in the file, where a prefix was removed from it.

    Examples:
        >>> import numpy as np
        >>> import filtersurgeon as fs
        >>> weight = np.arange(72, dtype=np.float32).reshape(4, 2, 3, 3)
        >>> checkpoint = fs.Checkpoint({"conv.weight": fs.StoredTensor.from_array(weight, "F32")})
        >>> checkpoint
        Checkpoint(name='checkpoint', tensors=1, parameters=72)
          conv.weight: F32 (4, 2, 3, 3)
        >>> checkpoint["conv.weight"].array().shape
        (4, 2, 3, 3)
    """

    tensors: Mapping[str, StoredTensor]
    name: str = "checkpoint"
    architecture: str | None = None
    pretrained_cfg: Mapping[str, Any] | None = None
    structure: tuple[Mapping[str, Any], ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()
    original: Checkpoint | None = None
    stored_names: Mapping[str, str] = field(default_factory=dict)
    _finish: Callable[[], None] = _do_nothing
    _close: Callable[[], None] = _do_nothing

    def __repr__(self) -> str:
        entries = (f"{name}: {x.dtype} {x.shape}" for name, x in self.tensors.items())
        steps = ", ".join(entry.verb for entry in self.history)
        return summarise(
            self,
            entries,
            name=self.name,
            architecture=self.architecture,
            tensors=len(self),
            parameters=self.parameters,
            history=steps or None,
        )

    def rows(self) -> Iterator[Row]:
        """Give a row for each tensor."""
        for name, stored in self.tensors.items():
            yield {
                "tensor": name,
                "dtype": stored.dtype,
                "shape": stored.shape,
                "parameters": prod(stored.shape),
            }

    def __getitem__(self, name: str) -> StoredTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._close()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Read every tensor into torch, with the stored types."""
        return {name: stored.torch() for name, stored in self.tensors.items()}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the tensors, independent of order and container."""
        return digest(self.tensors)

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors."""
        return sum(prod(stored.shape) for stored in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together."""
        return sum(stored.nbytes for stored in self.tensors.values())

    def edited(
        self, entry: HistoryEntry, tensors: Mapping[str, StoredTensor], why: str
    ) -> Checkpoint:
        """Give a checkpoint with some tensors changed; nothing is computed until it is read.

        Args:
            entry: the step for the history.
            tensors: the changed ones, by name. A weight that is stored in parts has the name that
                it would have as one tensor, and is written back in its parts.
            why: what is done to each of them, in words.

        Raises:
            LayerError: the parts of a weight cannot hold another one.
        """
        tensors = {
            name: stored.after(self.tensors[name])
            for name, stored in in_parts(self.tensors, tensors).items()
        }
        changes = tuple(
            Change(name, self.tensors[name].shape, stored.shape, why)
            for name, stored in tensors.items()
        )
        return replace(
            self,
            tensors={name: tensors.get(name, stored) for name, stored in self.tensors.items()},
            history=(*self.history, replace(entry, version=__version__)),
            # A ranking describes the filters as they were.
            annotations={k: v for k, v in self.annotations.items() if k != "ranking"},
            changes=(*self.changes, *changes),
            original=self.original or self,
        )

    def check_unpacked(self) -> None:
        """Refuse a packed checkpoint where filters are needed.

        Raises:
            CheckpointError: its filters are packed.
        """
        if PACKED in self.annotations:
            raise CheckpointError(f"{self.name} holds packed filters; run fsurgeon unpack first")

    def renamed(self, names: Mapping[str, str]) -> Checkpoint:
        """Give tensors other names, and leave out all others; their names in the file are kept.

        Args:
            names: name -> new name.
        """
        before = {new: self.stored_names.get(old, old) for old, new in names.items()}
        return replace(
            self,
            tensors={new: self.tensors[old] for old, new in names.items()},
            stored_names={new: old for new, old in before.items() if new != old},
        )

    def annotated(self, key: str, text: str) -> Checkpoint:
        """Give the same checkpoint with one more string in its metadata."""
        return replace(self, annotations={**self.annotations, key: text})

    def metadata(self) -> dict[str, str]:
        """Give the strings to store beside the tensors.

        A chain of edits that begins with a bare checkpoint is stamped with that one's digest,
        which reads all its tensors once.
        """
        history = [entry.to_json() for entry in self.history]
        if history and self.original is not None and not self.original.history:
            history[0]["input"] = self.original.digest
        described: dict[str, Any] = {
            "architecture": None if is_factory(self.architecture) else self.architecture,
            "pretrained_cfg": self.pretrained_cfg and dict(self.pretrained_cfg),
            "structure": [dict(edit) for edit in self.structure],
            "history": history,
        }
        known = {
            key: json.dumps(value, sort_keys=True) if key in _JSON_KEYS else value
            for key, value in described.items()
            if value
        }
        return {"format": "pt", **self.annotations, **known}


def describe(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """Turn a file's metadata into the keyword arguments of :class:`Checkpoint`.

    Raises:
        CheckpointError: one of this package's own keys does not hold what it should.
    """
    try:
        parsed = {key: parse_json(metadata[key]) for key in _JSON_KEYS if key in metadata}
        history = tuple(HistoryEntry.from_json(item) for item in parsed.get("history", ()))
        structure = tuple(dict(edit) for edit in parsed.get("structure", ()))
        pretrained_cfg = parsed.get("pretrained_cfg")
        if pretrained_cfg is not None and not isinstance(pretrained_cfg, dict):
            raise TypeError("pretrained_cfg is not an object")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{source} has corrupt metadata: {error}") from None
    architecture = metadata.get("architecture")
    return {
        "architecture": None if is_factory(architecture) else architecture,
        "pretrained_cfg": pretrained_cfg,
        "structure": structure,
        "history": history,
        "annotations": {
            key: value
            for key, value in metadata.items()
            if key not in (*_JSON_KEYS, "architecture", "format", NAMES)
        },
    }


def own_names(metadata: Mapping[str, str], tensors: Iterable[str], source: str) -> dict[str, str]:
    """Give the network's own name of every tensor of a file, which may store it under another.

    Raises:
        CheckpointError: the metadata does not tell one name for each.
    """
    names = {name: name for name in tensors}
    try:
        told = parse_json(metadata.get(NAMES, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{source} has corrupt metadata: {error}") from None
    if not isinstance(told, dict) or not told.keys() <= names.keys():
        raise CheckpointError(f"{source} has corrupt metadata: {NAMES} is no table of its tensors")
    names |= told
    if not all(isinstance(name, str) and name for name in told.values()) or (
        len(set(names.values())) < len(names)
    ):
        raise CheckpointError(f"{source} has corrupt metadata: {NAMES} gives a name twice, or none")
    return names
