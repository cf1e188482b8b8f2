"""Fuzz the readers, each in a process of its own, and show what came of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

from fuzz.bounds import Watch, kill_if_stuck, limit_memory
from fuzz.reader import find, names


def main() -> int:
    """Give 1 if anything was found, else 0."""
    given = _arguments()
    folder = Path(given.folder or tempfile.mkdtemp(prefix="fsurgeon-fuzz-"))
    folder.mkdir(parents=True, exist_ok=True)
    if given.inside:
        _inside(given, folder)
        return 0
    tallies = [_run(name, given, folder) for name in given.readers or names()]
    if given.json:
        Path(given.json).write_text(json.dumps(tallies, indent=1) + "\n")
    return int(any(tally["findings"] for tally in tallies))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(names())}")
    parser.add_argument("--cases", type=int, default=100_000, help="for each reader")
    parser.add_argument("--seconds", type=float, help="for each reader; stop before all cases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unguided", action="store_true", help="mutations only, without atheris")
    parser.add_argument("--folder", help="where findings and the corpus go")
    parser.add_argument("--json", help="write the table here too")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    return parser.parse_args()


def _run(name: str, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    report = folder / f"{name}.json"
    report.unlink(missing_ok=True)
    words = [sys.executable, "-m", "fuzz", name, "--inside", str(report), "--folder", str(folder),
             "--cases", str(given.cases), "--seed", str(given.seed)]  # fmt: skip
    words += ["--unguided"] if given.unguided else []
    words += ["--seconds", str(given.seconds)] if given.seconds else []
    log, watch = folder / f"{name}.log", folder / f"{name}.case"
    watch.unlink(missing_ok=True)
    with log.open("wb") as file, subprocess.Popen(words, stdout=file, stderr=file) as process:
        stuck = kill_if_stuck(process.pid, watch, find(name).bounds)
    tally: dict[str, Any]
    if stuck is not None:
        kept = folder / f"{name}-stuck"
        kept.write_bytes(stuck)
        tally = {"reader": name, "findings": {"killed because it hung": str(kept)}}
    elif report.exists():
        tally = json.loads(report.read_text())
    else:
        tally = {"reader": name, "findings": {f"died with code {process.returncode}": str(log)}}
    watch.unlink(missing_ok=True)
    print(_line(tally), flush=True)
    return tally


def _line(tally: dict[str, Any]) -> str:
    found = "".join(f"\n  {kind}: {path}" for kind, path in tally["findings"].items())
    if "cases" not in tally:
        return f"{tally['reader']:16}{found}"
    return (
        f"{tally['reader']:16} {tally['cases']:>9,} cases  {tally['per_second']:>7,} a second  "
        f"{100 * tally['read'] / tally['cases']:5.1f} % read  slowest {tally['slowest']:6.3f} s  "
        f"memory +{tally['grown'] / 2**20:.0f} MB{found}"
    )


def _inside(given: argparse.Namespace, folder: Path) -> None:
    (name,) = given.readers
    if not given.unguided:
        from fuzz.guided import fuzz

        fuzz(name, given.cases, given.seconds, given.seed, folder, Path(given.inside))
    from fuzz.trial import Trial, cases

    reader = find(name)
    reader.warm_up()
    todo = cases(reader, given.cases, given.seed)
    first = next(todo)  # the corpus is made before memory is limited
    limit_memory(reader.bounds)
    trial = Trial(reader, folder, Watch(folder / f"{name}.case", create=True))
    for case in chain([first], todo):
        trial.case(case)
        if given.seconds and trial.tally.seconds > given.seconds:
            break
    Path(given.inside).write_text(json.dumps(trial.tally.to_json()))


if __name__ == "__main__":
    sys.exit(main())
