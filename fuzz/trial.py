"""Trying cases on one reader, and keeping count."""

from __future__ import annotations

import hashlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from filtersurgeon.errors import FilterSurgeonError
from fuzz.bounds import Hang, Watch, peak_memory, time_limit
from fuzz.mutate import mutate
from fuzz.reader import Reader


@dataclass
class Tally:
    """What happened to the cases of one reader.

    Attributes:
        reader: its name.
        cases: tried so far.
        read: how many of them were good.
        slowest: processor seconds of the slowest.
        grown: bytes by which the process's largest size grew.
        findings: what else than reading or refusing happened: kind of error -> file.
    """

    reader: str
    cases: int = 0
    read: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    grown: int = 0
    findings: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Give the counts, with the rates that people ask for."""
        return {**asdict(self), "per_second": round(self.cases / max(self.seconds, 1e-9))}


class Trial:
    """Runs cases; a finding is written to a folder, named after what it is.

    Args:
        reader: what to try.
        folder: where findings go; None raises them instead.
        watch: shows each case to the process that kills this one if it hangs.
    """

    def __init__(
        self, reader: Reader, folder: Path | None = None, watch: Watch | None = None
    ) -> None:
        self.reader, self.folder, self.watch = reader, folder, watch
        self.tally = Tally(reader.name)
        self._begun, self._size = time.perf_counter(), peak_memory()

    def case(self, content: bytes) -> None:
        """Try one case."""
        if self.watch:
            self.watch.begin(self.tally.cases + 1, content)
        begun = time.process_time()
        try:
            with time_limit(self.reader.bounds):
                self.reader.read(content)
            self.tally.read += 1
        except FilterSurgeonError:
            pass
        except (Exception, Hang) as problem:
            if self.folder is None:
                raise
            self._keep(content, problem)
        self.tally.cases += 1
        self.tally.slowest = max(self.tally.slowest, time.process_time() - begun)
        self.tally.seconds = time.perf_counter() - self._begun
        self.tally.grown = peak_memory() - self._size

    def _keep(self, content: bytes, problem: BaseException) -> None:
        frames = traceback.extract_tb(problem.__traceback__)
        own = [x for x in frames if Path(x.filename).parent.name != "fuzz"] or list(frames)
        own = [x for x in own if "/filtersurgeon/" in x.filename] or own
        place = f"{Path(own[-1].filename).stem}:{own[-1].name}"
        kind = f"{type(problem).__name__} in {place}"
        if kind not in self.tally.findings:
            path = self.folder / f"{self.reader.name}-{hashlib.sha256(content).hexdigest()[:12]}"
            path.write_bytes(content)
            path.with_suffix(".txt").write_text("".join(traceback.format_exception(problem)))
            self.tally.findings[kind] = str(path)


def cases(reader: Reader, count: int, seed: int) -> Iterator[bytes]:
    """Give the valid inputs, and then mutations of them; the same seed gives the same cases."""
    random, corpus = Random(seed), reader.seeds()
    yield from corpus[:count]
    for _ in range(count - len(corpus)):
        yield reader.repair(mutate(random.choice(corpus), random, corpus))
