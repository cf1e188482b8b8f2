"""Archetypal analysis beside every other Python package for it, on the same matrices.

``python -m benchmarks.archetypes [--json FILE] [--weights FOLDER] [--limit SECONDS]`` prints a
table for each: CPU seconds to come within 0.5 % of the best objective that anyone found, and the
best final objective of each package given twenty times our time, by ours. Matrix products keep
to one thread everywhere. Real layers come from a folder of safetensors files; without it they
are left out.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from benchmarks.archetypes_peers import Peer, available, factor
from benchmarks.measure import Row, in_turn
from filtersurgeon.archetypes import archetypal_analysis
from filtersurgeon.archetypes.analysis import archetypal_analysis_batch
from filtersurgeon.archetypes.problem import Options

WITHIN = 1.005
# CPU seconds that a peer may take at most, unless twenty times ours is more.
LIMIT = 4.0
# Our time by the fastest package's; of planted problems, only the largest has one of its own.
TARGETS = {"planted 4608": 1 / 50, "planted": 1.0, "gaussian": 1 / 2, "": 1 / 10}
WEIGHTS = Path(__file__).parents[2] / "shared" / "data" / "weights"
ZOO = Path(__file__).parents[1] / "examples" / "zoo"
OBJECTIVES = Path(__file__).with_name("archetype_objectives.json")
WORST = 1.01
# File, tensor shape and d of layers about as large as the three reference problems.
REAL = (
    ("cifar10_resnet56", (64, 64, 3, 3), 16),
    ("tf_efficientnet_lite0", (320, 1152, 1, 1), 64),
    ("tf_efficientnet_lite0", (1280, 320, 1, 1), 128),
    ("tf_efficientnet_lite0", (1152, 1, 5, 5), 128),
)


@dataclass(frozen=True)
class Problem:
    """A matrix of filters (N, l) and a number of archetypes."""

    name: str
    filters: np.ndarray
    d: int


@dataclass
class Result:
    """What one configuration of one package reached.

    Attributes:
        problem: name of the problem.
        package: ours or the peer's.
        name: the configuration.
        path: CPU seconds and objective of every run, by rising number of steps.
        seconds_to_best: CPU seconds to come within 0.5 % of the best, or None.
        final: best objective within twenty times our time, divided by our final objective.
    """

    problem: str
    package: str
    name: str
    path: list[tuple[float, float]]
    seconds_to_best: float | None = None
    final: float | None = None


def problems(weights: Path) -> Iterator[Problem]:
    for length, n, d in ((576, 64, 16), (2304, 256, 64), (4608, 512, 128)):
        rng = np.random.default_rng(n)
        yield Problem(f"gaussian {length} x {n}, {d}", rng.standard_normal((n, length)), d)
        yield Problem(f"planted {length} x {n}, {d}", _planted(rng, n, length, d), d)
    for stem, shape, d in REAL:
        path = weights / f"{stem}.safetensors"
        if path.exists():
            yield Problem(f"{stem} {shape}, {d}", _layer(path, shape), d)


def _planted(rng: np.random.Generator, n: int, length: int, d: int) -> np.ndarray:
    """Give mixtures of d corners, among them the corners themselves, and 5 % of noise."""
    corners = rng.standard_normal((d, length))
    mixing = rng.dirichlet(np.full(d, 0.1), n)
    mixing[:d] = np.eye(d)
    X = mixing @ corners
    return rng.permutation(X + 0.05 * X.std() * rng.standard_normal(X.shape))


def _layer(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    from safetensors.numpy import load_file

    found = [value for _, value in sorted(load_file(path).items()) if value.shape == shape]
    return found[-1].reshape(shape[0], -1).astype(np.float64)


def measure(problem: Problem, peers: list[Peer], limit: float) -> list[Result]:
    """Run ours and every peer; a peer stops after the larger of `limit` and 20 times ours."""
    X = problem.filters
    archetypal_analysis(X[:40], 3)
    seconds = median(_timed(lambda: archetypal_analysis(X, problem.d))[0] for _ in range(5))
    ours = archetypal_analysis(X, problem.d)
    results = [Result(problem.name, "filtersurgeon", "", [(seconds, ours.objective)])]
    near, patience = WITHIN * ours.objective, max(limit, 20 * seconds)
    for peer in peers:
        peer.solve(np.ascontiguousarray(factor(X[:40])), 3, 2)
        path = _path(peer, problem, near, patience)
        results.append(Result(problem.name, peer.package, peer.name, path))
    _compare(results, problem)
    return results


def _path(peer: Peer, problem: Problem, near: float, patience: float) -> list[tuple[float, float]]:
    """Double the steps until the peer has used up the seconds, then close in on `near`."""
    runs = {}
    steps = 2
    while True:
        runs[steps] = _run(peer, problem, steps)
        if runs[steps][0] > patience or steps > 50_000:
            break
        steps *= 2
    reached = min((steps for steps, run in runs.items() if run[1] <= near), default=2)
    low = reached // 2
    while reached - low > max(1, reached // 8):
        middle = (low + reached) // 2
        runs[middle] = _run(peer, problem, middle)
        low, reached = (low, middle) if runs[middle][1] <= near else (middle, reached)
    return [run for _, run in sorted(runs.items())]


def _run(peer: Peer, problem: Problem, steps: int) -> tuple[float, float]:
    seconds, (F, (A, Z)) = _timed(lambda: _peer_call(peer, problem, steps))
    return seconds, float(((F - A @ Z) ** 2).sum())


def _peer_call(
    peer: Peer, problem: Problem, steps: int
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    F = np.ascontiguousarray(factor(problem.filters))
    return F, peer.solve(F, problem.d, steps)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    begin = process_time()
    result = call()
    return process_time() - begin, result


def _compare(results: list[Result], problem: Problem) -> None:
    """Fill in the seconds to come near the best, and the finals within the time allowed."""
    ours = results[0]
    seconds, objective = ours.path[0]
    best = min(value for result in results for _, value in result.path)
    for result in results[1:]:
        reached = [time for time, value in result.path if value <= WITHIN * best]
        result.seconds_to_best = min(reached, default=None)
        allowed = [value for time, value in result.path if time <= 20 * seconds]
        result.final = min(allowed) / objective if allowed else None
    ours.final = 1.0
    ours.seconds_to_best = _own_seconds(problem, WITHIN * best)


def _own_seconds(problem: Problem, near: float) -> float | None:
    """Give the CPU seconds until our solver holds an objective: in its first start, or at all."""
    for n_init in (1, None):
        found = archetypal_analysis(problem.filters, problem.d, n_init=n_init)
        sweeps = next((k for k, value in enumerate(found.history, 1) if value <= near), None)
        if sweeps:
            options: Options = {"n_init": n_init, "max_iter": sweeps}
            times = [
                _timed(lambda: archetypal_analysis(problem.filters, problem.d, **options))[0]  # noqa: B023
                for _ in range(5)
            ]
            return median(times)
    return None


def best_of_packages(results: list[Result]) -> list[Result]:
    """Keep the fastest configuration of each package, its best final among all of them."""
    kept = []
    for package in dict.fromkeys(_group(result) for result in results):
        own = [result for result in results if _group(result) == package]
        first = min(own, key=lambda result: result.seconds_to_best or np.inf)
        finals = [result.final for result in own if result.final is not None]
        first.final = min(finals, default=None)
        kept.append(first)
    return kept


def _group(result: Result) -> tuple[str, bool]:
    """Keep apart what a package does alone and what it does from our start."""
    return result.package, "our start" in result.name


def worst_layers(weights: Path) -> Iterator[Row]:
    """Compare objectives with the best known, for the worst spatial layer of each network.

    The best known are the least of about a hundred starts, of furthest-sum, of the hull and at
    random, with 0 to 30 archetypes too many. Numbers of archetypes are those of `rank`.
    """
    from filtersurgeon import load
    from filtersurgeon.filters import find_layers

    for stem, known in json.loads(OBJECTIVES.read_text("utf-8")).items():
        path = next((f for f in (weights, ZOO) if (f / f"{stem}.safetensors").exists()), None)
        if path is None:
            continue
        layers = {x.name: x.matrix() for x in find_layers(load(path / f"{stem}.safetensors"))}
        pairs = []
        for name, best in known.items():
            X = layers[name].astype(np.float64)
            d = min(max(1, round(0.25 * len(X))), X.shape[1] + 1)
            pairs.append((archetypal_analysis(X, d).objective, best, name))
        ours, best, name = max(pairs, key=lambda pair: pair[0] / pair[1])
        yield Row(f"archetypes, objective, {stem} {name} : best known", ours, best, "", WORST)


def run() -> Iterator[Row]:
    """Compare with the fastest package alone; the seconds of one that fails are a lower bound."""
    yield from worst_layers(WEIGHTS)
    peers, _ = available()
    alone = [peer for peer in peers if "our start" not in peer.name]
    with threadpool_limits(1):
        for problem in problems(WEIGHTS):
            ours, *others = measure(problem, alone, LIMIT)
            if not others or ours.seconds_to_best is None:
                continue
            fastest = min(other.seconds_to_best or other.path[-1][0] for other in others)
            target = next(t for start, t in TARGETS.items() if problem.name.startswith(start))
            name = f"archetypes, {problem.name} : fastest package"
            yield Row(name, 1e3 * ours.seconds_to_best, 1e3 * fastest, "ms", target)


def run_on_gpu(device: str = "cuda", layers: int = 32) -> Iterator[Row]:
    """Compare many layers of one size on a GPU with our compiled code on the CPU."""
    rng = np.random.default_rng(0)
    for n, length, d in ((64, 576, 16), (256, 2304, 64)):
        stack = [rng.standard_normal((n, length)) for _ in range(layers)]
        ours, peer = in_turn(
            lambda: archetypal_analysis_batch(stack, d, device=device),  # noqa: B023
            lambda: archetypal_analysis_batch(stack, d),  # noqa: B023
            3,
        )
        name = f"archetypes, {layers} layers of {n} x {length}, {d} : our code for the CPU"
        yield Row(name, 1e3 * ours, 1e3 * peer, "ms", 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS")
    parser.add_argument("--only", default="", metavar="WORD", help="problems with this in the name")
    folder = Path(os.environ.get("FILTERSURGEON_WEIGHTS", WEIGHTS))
    parser.add_argument("--weights", type=Path, default=folder, metavar="FOLDER")
    words = parser.parse_args()
    peers, missing = available()
    columns = ("package", "configuration", "s to 0.5 %", "ours is faster", "final / ours")
    console = Console(width=140)
    rows: list[Result] = []
    with threadpool_limits(1):
        for problem in problems(words.weights):
            if words.only in problem.name:
                results = measure(problem, peers, words.limit)
                rows += results
                table = Table(*columns, title=problem.name)
                _add_rows(table, best_of_packages(results))
                console.print(table)
    console.print(f"missing: {', '.join(missing) or 'none'}")
    if words.json:
        shown = {"missing": missing, "results": [asdict(row) for row in rows]}
        words.json.write_text(json.dumps(shown, indent=1) + "\n")


def _add_rows(table: Table, results: list[Result]) -> None:
    ours = results[0].seconds_to_best
    for result in results:
        seconds = result.seconds_to_best
        table.add_row(
            result.package,
            result.name,
            f"{seconds:.3f}" if seconds else "not reached",
            f"{seconds / ours:.1f} x" if seconds and ours else "",
            f"{result.final:.5f}" if result.final else "",
        )


if __name__ == "__main__":
    main()
