"""Sums over images, kept on disk too, so that a long run can be interrupted and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.errors import OptionError
from filtersurgeon.ranking.kernel_scores import (
    KernelScores,
    read_with_metadata,
    write_kernel_scores,
)
from filtersurgeon.ranking.saliency import Sums

SECONDS_BETWEEN_WRITES = 60.0


class ResumableSums:
    """Sums over images that can be resumed after an interruption.

    Args:
        origin: what the sums depend on, JSON; a file with another origin is not added to.
        method: of the scores that the sums become.
        options: likewise.
        data: likewise.
        path: a ``.safetensors`` file to keep them in; None keeps nothing.

    Attributes:
        images: how many have been added up.

    Raises:
        OptionError: the file is of another origin, or is not meant for scores.
        CheckpointError: the file is something else.
    """

    def __init__(
        self,
        origin: Mapping[str, Any],
        method: str,
        options: Mapping[str, Any],
        path: Path | None,
        data: Mapping[str, str] | None = None,
    ) -> None:
        self.origin, self.path = dict(origin), path
        self.method, self.options, self.data = method, dict(options), dict(data or {})
        self.sums: Sums = {}
        self.images = 0
        self._finished = False
        if path is not None and path.suffix != ".safetensors":
            raise OptionError(f"{path}: sums to go on from are kept in a .safetensors file")
        if path is not None and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        scores, metadata = read_with_metadata(path)
        try:
            before = parse_json(metadata.get("origin", "{}"))
        except ValueError:
            before = None
        if not isinstance(before, dict):
            raise OptionError(f"{path} holds no sums that a run can go on from; name another file")
        for key, value in self.origin.items():
            if before.get(key) != value:
                raise OptionError(
                    f"{path} belongs to another run ({key} differs); remove it, or name another"
                )
        self.sums, self.images = dict(scores.layers), scores.images
        self._finished = "unfinished" not in metadata

    def add(self, images: int, part: Sums) -> None:
        """Add what some images give."""
        for name, values in part.items():
            if name in self.sums and self.sums[name].shape != values.shape:
                raise OptionError(
                    f"{self.path} belongs to another run (layer {name} has another shape); "
                    "remove it, or name another"
                )
            self.sums[name] = self.sums[name] + values if name in self.sums else values
        self.images += images

    def scores(self) -> KernelScores:
        """Give the sums as scores."""
        return KernelScores(self.method, self.options, dict(self.sums), self.images, self.data)

    @contextmanager
    def kept(self) -> Iterator[ResumableSums]:
        """Write the sums when the block ends, as unfinished if it is left by an interruption."""
        self._written = monotonic()
        try:
            yield self
            self._finished = True
        finally:
            self._write()

    def keep_now_and_then(self) -> None:
        """Write the sums if that was last done a while ago."""
        if monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self._write()
            self._written = monotonic()

    def _write(self) -> None:
        if self.path is None or not self.sums:
            return
        metadata = {"origin": json.dumps(self.origin, sort_keys=True)}
        if not self._finished:
            metadata["unfinished"] = "true"
        write_kernel_scores(self.scores(), self.path, metadata)
