"""Many independent jobs on one machine or a cluster, through joblib.

A job is a function that workers can import and arguments that are small: paths and plans, not
tensors. Its result is a JSON document. With a cache folder, every result is written as soon as
its job is done, under the digest of the job, so a sweep that was interrupted goes on where it
stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from filtersurgeon.checkpoint.atomic import write_bytes
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.progress import Progress, tell_metric
from filtersurgeon.checkpoint.vision import require
from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.networks.devices import take_turn

BACKENDS = ("loky", "dask", "ray")
Arguments = Mapping[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class JobSettings:
    """Settings of parallel jobs.

    Attributes:
        jobs: how many at a time; with 1 and loky they run in this process. Where the device is
            ``auto`` and there are several GPUs, jobs side by side take them in turn.
        backend: ``loky`` (processes of this machine), ``dask`` or ``ray``.
        address: of a running Dask scheduler or Ray cluster; None starts one on this machine.
        cache: folder of finished results, seen by all workers; None keeps none.

    Raises:
        OptionError: unknown backend, an address without one, or fewer than one job at a time.
    """

    jobs: int = 1
    backend: str = "loky"
    address: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            hint = near_misses(self.backend, BACKENDS)
            raise OptionError(f"backend {self.backend!r} is unknown{hint}")
        if self.jobs < 1:
            raise OptionError(f"jobs must be at least 1, not {self.jobs}")
        if self.address is not None and self.backend == "loky":
            raise OptionError("an address needs the backend dask or ray")


def reachable(name: str) -> str:
    """Give a path that workers started elsewhere understand; other names stay as they are."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def run_jobs(
    function: Callable[..., Result],
    arguments: Sequence[Arguments],
    settings: JobSettings = JobSettings(),
    progress: Progress | None = None,
) -> list[Result]:
    """Call a function once per set of arguments.

    Args:
        function: importable by workers; returns a JSON document.
        arguments: keyword arguments of each job, JSON documents themselves. What a file holds
            must be among them (its digest), or the cache would not notice that it changed.
        settings: where to run.
        progress: called with jobs done and jobs in all, for the cached ones first.

    Returns:
        The results, in the order of the arguments.

    Raises:
        OptionError: an unusable cache, or arguments that are no JSON document.
    """
    cache = None if settings.cache is None else Path(settings.cache)
    if cache is not None:
        _make_folder(cache)
    results = {index: _read_cache(cache, function, found) for index, found in enumerate(arguments)}
    missing = [index for index, result in results.items() if result is None]
    if progress is not None:
        progress(len(arguments) - len(missing), len(arguments))
    alone = settings.jobs == 1 and settings.backend == "loky"
    calls = [
        (function, arguments[index], cache, None if alone else turn % settings.jobs)
        for turn, index in enumerate(missing)
    ]
    done = _run(calls, settings) if calls else iter(())
    for count, (index, result) in enumerate(zip(missing, done, strict=True), start=1):
        results[index] = result
        tell_metric(progress, _accuracy_of(result))
        if progress is not None:
            progress(len(arguments) - len(missing) + count, len(arguments))
    return [result for result in results.values() if result is not None]


def _accuracy_of(result: Any) -> str:
    """Describe the accuracy that a job found, if its result holds an evaluation."""
    found = result if isinstance(result, dict) else {}
    listed = [found, found.get("evaluation"), *(found.get("evaluations") or ())]
    shares = [x["top1"] for x in listed if isinstance(x, dict) and "top1_count" in x]
    return f"top-1 {100 * shares[-1]:.2f} %" if shares else ""


def _make_folder(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise OptionError(f"cache {cache}: {problem.strerror}") from problem


def job_key(function: Callable[..., Result], arguments: Arguments) -> str:
    """Give the digest of a job: its function's name and its arguments.

    Raises:
        OptionError: the arguments are no JSON document.
    """
    name = f"{function.__module__}:{function.__qualname__}"
    try:
        text = json.dumps([name, dict(arguments)], sort_keys=True)
    except (TypeError, ValueError) as problem:
        raise OptionError(f"jobs carry paths and plans, not objects ({problem})") from problem
    return sha256(text.encode()).hexdigest()


def _read_cache(
    cache: Path | None, function: Callable[..., Result], arguments: Arguments
) -> Result | None:
    """Give a job's result if it was already found."""
    key = job_key(function, arguments)
    if cache is None:
        return None
    try:
        found: Result = parse_json((cache / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # not done yet, or not to be read: it is done again
    return found if isinstance(found, dict) else None


def _call(
    function: Callable[..., Result], arguments: Arguments, cache: Path | None, turn: int | None
) -> Result:
    """Do one job and write its result; runs in a worker, which takes GPUs in turn."""
    if turn is not None:
        take_turn(turn)
    result = function(**arguments)
    if cache is not None:
        path = cache / f"{job_key(function, arguments)}.json"
        write_bytes(path, json.dumps(result).encode())
    return result


def _run(calls: list[Any], settings: JobSettings) -> Iterator[Result]:
    """Run calls through joblib, giving results in order."""
    from joblib import Parallel, delayed

    # Only loky hands results over one by one; clusters give all of them at the end.
    wanted = "generator" if settings.backend == "loky" else "list"
    with _cluster(settings):
        yield from Parallel(n_jobs=settings.jobs, return_as=wanted)(
            delayed(_call)(*call) for call in calls
        )


@contextmanager
def _cluster(settings: JobSettings) -> Iterator[None]:
    """Make the chosen backend joblib's own inside the block."""
    from joblib import parallel_config

    if settings.backend == "loky":
        with parallel_config("loky"):
            yield
    elif settings.backend == "dask":
        with _dask_client(settings), parallel_config("dask"):
            yield
    else:
        with _ray_runtime(settings), parallel_config("ray"):
            yield


@contextmanager
def _dask_client(settings: JobSettings) -> Iterator[None]:
    """Connect to a Dask scheduler, or start one with a process per job."""
    connect = require("distributed", "cluster").Client
    local = {"n_workers": settings.jobs, "threads_per_worker": 1, "dashboard_address": None}
    with connect(settings.address) if settings.address else connect(**local):
        yield


@contextmanager
def _ray_runtime(settings: JobSettings) -> Iterator[None]:
    """Connect to a Ray cluster, or start one with a CPU per job."""
    ray = require("ray", "cluster")
    require("ray.util.joblib", "cluster").register_ray()
    local = {"num_cpus": settings.jobs, "include_dashboard": False}
    ray.init(**({"address": settings.address} if settings.address else local))
    try:
        yield
    finally:
        ray.shutdown()
