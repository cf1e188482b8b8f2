"""The same cases, guided by the branches that they reach (atheris, which is libFuzzer)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from fuzz.bounds import Watch, limit_memory
from fuzz.mutate import mutate
from fuzz.reader import find
from fuzz.trial import Trial

LONGEST = 1 << 14
"""Bytes of a case; longer ones reach no other branches, and take their time."""


def fuzz(
    name: str, cases: int, seconds: float | None, seed: int, folder: Path, report: Path
) -> None:
    """Run cases on one reader, and end the process; ``report`` gets the tally as JSON."""
    # The compiler of kernels cannot read functions that count their branches.
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import atheris

    with atheris.instrument_imports(include=["filtersurgeon", "json"]):
        reader = find(name)
        corpus = reader.seeds()
        reader.warm_up()
    limit_memory(reader.bounds)
    trial = Trial(reader, folder, Watch(folder / f"{name}.case", create=True))

    def one(content: bytes) -> None:
        trial.case(content)
        late = seconds is not None and trial.tally.seconds > seconds
        if late or trial.tally.cases >= cases:
            report.write_text(json.dumps(trial.tally.to_json()))
            os._exit(0)

    def mutation(content: bytes, size: int, state: int) -> bytes:
        random = Random(state)
        wild: Callable[[], bytes] = lambda: atheris.Mutate(content, size)  # noqa: E731
        changed = wild() if random.random() < 0.5 else mutate(content, random, corpus)
        return reader.repair(changed)[:size]

    seeds = folder / "corpus" / name
    seeds.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(corpus):
        (seeds / f"seed{number}").write_bytes(case)
    options = [
        f"-max_len={LONGEST}",
        f"-seed={seed}",
        "-timeout=60",
        "-rss_limit_mb=0",
        "-verbosity=0",
        f"-artifact_prefix={folder}/",
    ]
    atheris.Setup([sys.argv[0], *options, str(seeds)], one, custom_mutator=mutation)
    atheris.Fuzz()
