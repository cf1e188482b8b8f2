"""A few thousand hostile inputs for every reader, the same ones every time; more by `make fuzz`."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from random import Random
from time import process_time

import pytest

from filtersurgeon.errors import FilterSurgeonError
from fuzz.bounds import Bounds, kill_if_stuck, memory_limit
from fuzz.mutate import MAX_CASE, mutate
from fuzz.reader import FINDINGS, Reader, find, names
from fuzz.trial import Trial, cases

CASES = 1000
COSTLY = {"images": 200, "recipe_long": 20, "labelled_files": 200, "folder_tree": 300}
"""Cases of readers that take milliseconds for each."""


@pytest.fixture(autouse=True)
def nothing_old_to_collect():
    """Leave what the process held before out of garbage collections, whose time a case pays for."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("name", names())
def test_a_reader_reads_or_refuses(name):
    reader = find(name)
    for case in reader.corpus():  # a reader that refuses its own seeds tests nothing
        reader.read(case)
    for case in reader.refused():
        with pytest.raises(FilterSurgeonError):
            reader.read(case)
    for case in reader.seeds():  # imports what is imported late, which no case is to pay for
        with suppress(FilterSurgeonError):
            reader.read(case)
    trial = Trial(reader)
    for case in cases(reader, COSTLY.get(name, CASES), seed=0):
        trial.case(case)
    assert trial.tally.cases == COSTLY.get(name, CASES)
    assert trial.tally.read >= len(reader.corpus())


@pytest.mark.parametrize(
    "path", sorted(FINDINGS.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_what_was_found_once_is_read_or_refused(path):
    assert path.parent.name in names()
    reader = find(path.parent.name)
    trial = Trial(reader)
    with memory_limit(reader.bounds):
        trial.case(path.read_bytes())


def test_mutations_repeat_and_differ():
    corpus = [b'{"a": [1, 2, 3]}', b"0123456789"]
    first = [mutate(corpus[0], Random(seed), corpus) for seed in range(300)]
    assert first == [mutate(corpus[0], Random(seed), corpus) for seed in range(300)]
    assert len(set(first)) > 200
    assert max(map(len, first)) <= MAX_CASE


def test_a_hang_and_another_error_are_findings(tmp_path):
    def read(case: bytes) -> None:
        while case == b"hang":
            pass
        raise KeyError(case)

    trial = Trial(Reader("made", list, read, bytes), tmp_path)
    trial.case(b"hang")
    trial.case(b"key")
    assert sorted(trial.tally.findings) == ["Hang in test_fuzz:read", "KeyError in test_fuzz:read"]
    kept = Path(trial.tally.findings["KeyError in test_fuzz:read"])
    assert kept.read_bytes() == b"key"


def test_what_takes_long_the_first_time_is_no_finding():
    read = []

    def import_late(case: bytes) -> None:
        while not read and process_time() < end:
            pass
        read.append(case)

    end = process_time() + 0.2
    reader = Reader("made", lambda: [b"valid"], import_late, bytes, Bounds(seconds=0.05))
    reader.warm_up()
    Trial(reader).case(b"other")  # raises what it finds
    assert read == [b"valid", b"other"]


def test_what_hangs_outside_of_python_is_killed(tmp_path):
    program = """
import sys
from pathlib import Path
from fuzz.bounds import Watch
watch = Watch(Path(sys.argv[1]), create=True)
watch.begin(1, b"reads")
watch.begin(2, b"hangs")
while True:
    pass
"""
    path = tmp_path / "case"
    with subprocess.Popen([sys.executable, "-c", program, str(path)]) as process:
        assert kill_if_stuck(process.pid, path, Bounds(seconds=0.05)) == b"hangs"
    assert process.returncode == -signal.SIGKILL
    with subprocess.Popen([sys.executable, "-c", "pass"]) as process:
        assert kill_if_stuck(process.pid, tmp_path / "none", Bounds()) is None
    assert process.returncode == 0
