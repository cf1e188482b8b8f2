"""Check on a GPU that every verb computes what it does on the CPU, then measure what the GPU gains.

``python -m benchmarks.gpu_check`` takes a few minutes of one GPU and no other file than this
project's. It runs the tests marked ``gpu``, compares the verbs on the CPU and on the GPU, and
measures, in this order; what does not begin within ``--minutes`` is left out. With ``--study``, a
study at the papers' scale follows (``benchmarks/gpu_study.py``). It writes JSON and a page, and
prints first what failed. ``--dry-run`` does the same on the CPU with tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import filtersurgeon as fs
from benchmarks import gpu_study
from benchmarks.measure import Row
from filtersurgeon.data.data import as_spec, open_data
from filtersurgeon.doctor import machine
from filtersurgeon.learn.evaluate import evaluate
from filtersurgeon.learn.networks import open_network
from filtersurgeon.networks.devices import best_device, wait_for
from filtersurgeon.networks.opened_module import open_module

RELATIVE, ABSOLUTE = 5e-3, 1e-4
"""Largest difference of a number from the CPU's, with sums in another order and float32."""
LOOSE = {"prune by reconstruction", "tune", "maximize"}
"""Steps build on each other there; only shapes and the result's worth are compared."""


@dataclass(frozen=True)
class Sizes:
    """How much work is done.

    Attributes:
        network: of timm, for the comparisons and the measurements.
        other: of timm, for archetypes.
        side: of an image.
        images: for pruning.
        batch: of a training step and of an evaluation.
        rounds: of a measurement.
    """

    network: str = "resnet50"
    other: str = "convnextv2_tiny"
    side: int = 224
    images: int = 1024
    batch: int = 64
    rounds: int = 10


TINY = Sizes("test_resnet", "test_resnet", 32, 16, 2, 1)


@dataclass(frozen=True)
class Check:
    """One comparison or measurement.

    Attributes:
        name: what was done.
        passed: whether it ran and, for a comparison, agreed.
        words: what was found, or what went wrong.
        seconds: that it took.
        rows: what was measured.
    """

    name: str
    passed: bool
    words: str
    seconds: float
    rows: tuple[Row, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rows": [row.to_json() for row in self.rows]}


Numbers = dict[str, np.ndarray]


def small_network(seed: int = 0) -> fs.Checkpoint:
    """Give a small residual network with trained-looking statistics."""
    network = fs.build(fs.untrained("timm:test_resnet", num_classes=3, seed=seed)).train()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        network(torch.randn(32, 3, 32, 32, generator=generator))
    return open_module(network.eval(), (3, 32, 32))


def random_images(count: int, side: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Give random pixels, prepared, and labels in turn."""
    rng = np.random.default_rng(1)
    images = rng.standard_normal((count, 3, side, side), dtype=np.float32)
    return images, np.arange(count) % classes


def floats(checkpoint: fs.Checkpoint) -> Numbers:
    """Give the tensors of a checkpoint that hold floats."""
    stored = ((name, checkpoint[name]) for name in checkpoint)
    return {name: tensor.array() for name, tensor in stored if tensor.dtype == "F32"}


def verbs(network: fs.Checkpoint, device: str) -> dict[str, Callable[[], Numbers]]:
    """List the verbs that compute, each with the numbers that it gives on a device."""
    images = random_images(24, 32, 3)
    run = fs.ImageRun(as_spec(images), device=device)
    first = next(iter(fs.rank(network, "l2").layers))
    evaluation = fs.EvaluationSettings(batch_size=8, device=device)

    def rank(method: str, **options: Any) -> Numbers:
        found = fs.rank(network, method, **options)
        return {name: layer.scores for name, layer in found.layers.items()}

    def archetypes() -> Numbers:
        found = fs.rank(network, "archetype", device=device)
        errors = {name: layer.statistics["error"] for name, layer in found.layers.items()}
        return {name: np.array(0.01 * round(100 * error)) for name, error in errors.items()}

    def tune() -> Numbers:
        how = fs.RunSettings(epochs=1, batch_size=8, device=device, channels_last=True)
        recipe, given = fs.TrainingRecipe(lr=1e-4), as_spec(images)
        return floats(fs.tune(network, fs.TrainingImages(given, given), recipe, how)[0])

    def compare() -> Numbers:
        pair = [network, small_network(1)]
        how = fs.ComparisonSettings(device=device, latency_runs=2)
        found = fs.compare(pair, images, how)
        return {"difference": np.array(found.difference.relative_mean)}

    def decode() -> Numbers:
        how = fs.DecodeSettings([first], "0,1", device=device)
        return {found.layer: found.filters for found in fs.decode(network, how)}

    def maximize() -> Numbers:
        how = fs.AscentSettings(steps=2)
        found = fs.maximize(network, how, layers=[first], units="0,1", device=device)
        return {each.layer: each.images for each in found}

    def seen(name: str) -> Numbers:
        few = images[0][:2]
        if name == "gradcam":
            return {"maps": fs.gradcam([network], data=few, device=device).looks[0].maps}
        found = fs.activations([network], data=few, layers=[first], device=device)
        return {"maps": found.layers[0].maps[0]}

    def learn_bank() -> Numbers:
        how = fs.LearningSettings(epochs=1, device=device)
        return {"decoder": fs.learn_bank(network, how, size=3, all_spatial=True).decoder[0][0]}

    def prune(**options: Any) -> Numbers:
        return floats(fs.prune(network, data=run, **options))

    halved = {"sparsity": 0.5, "per_layer": True, "method": "l2"}
    return {
        "rank archetype": archetypes,
        "rank saliency": lambda: rank("saliency", data=run),
        "prune by reconstruction": lambda: prune(target="macs=0.6x"),
        "prune by least squares": lambda: prune(**halved, compensate="least-squares"),
        "prune by batch norm": lambda: prune(**halved, compensate="batchnorm"),
        "eval": lambda: {"loss": np.array(fs.evaluate(network, images, evaluation).loss)},
        "compare": compare,
        "tune": tune,
        "decode": decode,
        "maximize": maximize,
        "gradcam": lambda: seen("gradcam"),
        "activations": lambda: seen("activations"),
        "embed": lambda: {
            "distances": np.ptp(
                fs.embed([network], images, "pca", evaluation).clouds[0].points, axis=0
            )
        },
        "bank learn": learn_bank,
    }


def agreement(device: str, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Callable[[], str]]]:
    """List the comparisons of the verbs on the CPU with those on the device."""
    network = small_network()
    here, there = verbs(network, "cpu"), verbs(network, device)

    def compare(name: str) -> str:
        return describe_difference(here[name](), there[name](), name in LOOSE)

    for name in names or here:
        yield f"{name}: CPU and {device}", partial(compare, name)


def describe_difference(expected: Numbers, found: Numbers, loose: bool) -> str:
    """Say by how much numbers differ at most.

    Raises:
        AssertionError: names or shapes differ, numbers are not finite, or differ by too much.
    """
    assert found.keys() == expected.keys(), f"other names: {sorted(found)[:3]}"
    worst = 0.0
    for name, numbers in expected.items():
        other = found[name]
        assert np.isfinite(other).all(), f"{name}: numbers that are not finite"
        if loose:
            continue
        assert other.shape == numbers.shape, f"{name}: {other.shape}, not {numbers.shape}"
        size = np.abs(numbers).max(initial=0.0)
        gap = np.abs(other - numbers).max(initial=0.0)
        assert gap <= RELATIVE * size + ABSOLUTE, f"{name}: differs by {gap:.2g} of {size:.2g}"
        worst = max(worst, float(gap / (size + ABSOLUTE)))
    return "finite, same tensors" if loose else f"differ by at most {worst:.1e}"


def timed(function: Callable[[], object], device: str, rounds: int) -> float:
    """Give the milliseconds of a call: the median of some rounds after one to warm up.

    With no rounds, the first call is timed.
    """

    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        function()
        wait_for(torch.device(device))
        found.append(1e3 * (time.perf_counter() - start))
    return float(np.median(found[1:] or found))


def measurements(device: str, sizes: Sizes) -> Iterator[tuple[str, Callable[[], list[Row]]]]:
    """List what is measured on the device, against the CPU or another network."""
    network = fs.untrained(f"timm:{sizes.network}", num_classes=2)

    def archetypes(name: str) -> list[Row]:
        other = network if name == sizes.network else fs.untrained(f"timm:{name}")
        ours = timed(lambda: fs.rank(other, "archetype", device=device), device, 1)
        peer = timed(lambda: fs.rank(other, "archetype", device="cpu"), "cpu", 1)
        return [Row(f"archetypes of {name} : CPU", ours, peer, "ms", 1.0)]

    def limited(name: str, function: Callable[[], object]) -> list[Row]:
        """Time one call against a minute, which is what is hoped for on a GPU."""
        return [Row(f"{name} : 60 s", timed(function, device, 0), 6e4, "ms", 1.0)]

    def prune() -> list[Row]:
        pixels = random_images(sizes.images, sizes.side, 2)[0]
        run = fs.ImageRun(as_spec(pixels), device=device)
        return limited(
            f"prune {sizes.network} to 70 %, {sizes.images} images",
            lambda: fs.prune(network, target="macs=0.7x", data=run),
        )

    def saliency() -> list[Row]:
        run = fs.ImageRun(as_spec(random_images(4 * sizes.batch, sizes.side, 2)), device=device)
        return limited(
            f"saliency of {sizes.network}, {4 * sizes.batch} images",
            lambda: fs.rank(network, "saliency", data=run),
        )

    def training_step() -> list[Row]:
        plain = fs.untrained("timm:resnet18", num_classes=102)
        pair = [fs.build(x) for x in (fs.convert(plain, module="reduced-pfm"), plain)]
        images = torch.randn(sizes.batch, 3, sizes.side, sizes.side, device=device)
        images = images.to(memory_format=torch.channels_last)

        def step(model: nn.Module) -> Callable[[], None]:
            model = model.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]

            def run() -> None:
                model.zero_grad(set_to_none=True)
                with torch.autocast(torch.device(device).type, torch.bfloat16):
                    loss = model(images).sum()
                loss.backward()

            return run

        ours, peer = (timed(step(model), device, sizes.rounds) for model in pair)
        name = f"training step of {sizes.batch} images, bf16, PFNet18 : ResNet-18"
        return [Row(name, ours, peer, "ms", 1.0)]

    def evaluation() -> list[Row]:
        images, labels = random_images(4 * sizes.batch, sizes.side, 2)
        how = fs.EvaluationSettings(sizes.batch, device=device)
        ready = open_network(network)
        data = open_data(as_spec((images, labels)), ready.preprocessing, ready.n_classes)
        model = ready.model.to(device).eval()

        @torch.inference_mode()
        def loop() -> None:
            right = torch.zeros((), device=device)
            for start in range(0, len(images), sizes.batch):
                part = torch.from_numpy(images[start : start + sizes.batch]).to(device)
                true = torch.from_numpy(labels[start : start + sizes.batch]).to(device)
                right += (model(part).argmax(1) == true).sum()

        ours = timed(lambda: evaluate(model, data, ready.n_classes, how), device, sizes.rounds)
        peer = timed(loop, device, sizes.rounds)
        name = f"evaluate {sizes.network}, {4 * sizes.batch} images : a plain loop"
        return [Row(name, ours, peer, "ms", 2.0)]

    yield f"archetypes of {sizes.network}", lambda: archetypes(sizes.network)
    if sizes.other != sizes.network:
        yield f"archetypes of {sizes.other}", lambda: archetypes(sizes.other)
    yield "training step", training_step
    yield "evaluation", evaluation
    yield "saliency", saliency
    yield "pruning by reconstruction", prune


def marked_tests() -> str:
    """Run the tests that are marked ``gpu``.

    Raises:
        AssertionError: one fails.
    """
    words = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider",
             "tests/test_archetypes_batch.py"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    last = (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
    assert done.returncode == 0, last
    return last


def attempt(name: str, function: Callable[[], Any]) -> Check:
    """Run one check; whatever it raises is its result."""
    start = time.perf_counter()
    try:
        found = function()
    except Exception as problem:
        place = traceback.extract_tb(problem.__traceback__)[-1]
        words = f"{type(problem).__name__} ({Path(place.filename).name}:{place.lineno}): {problem}"
        return Check(name, False, words[:400], time.perf_counter() - start)
    took = time.perf_counter() - start
    if isinstance(found, str):
        return Check(name, True, found, took)
    words = "; ".join(f"{row.ours:.1f} {row.unit}, ratio {row.ratio:.2f}" for row in found)
    return Check(name, True, words, took, tuple(found))


Todo = tuple[str, float, Callable[[], Any]]
"""A name, the seconds that must be left for it to begin, and what to do."""


def run_in_time(todo: Iterable[Todo], until: float) -> tuple[list[Check], list[str]]:
    """Do one after the other; leave out what does not begin in time.

    Args:
        todo: what to do.
        until: when, by the monotonic clock, there is no time left.

    Returns:
        What was done, and what was left out and why.
    """
    checks, left_out = [], []
    for name, needed, function in todo:
        left = until - time.monotonic()
        if left < max(needed, 0.0):
            left_out.append(f"{name}: {max(0.0, left):.0f} s are left, {needed:.0f} s are needed")
            print("left out", left_out[-1], flush=True)
            continue
        checks.append(attempt(name, function))
        print("ok    " if checks[-1].passed else "FAILED", name, checks[-1].words, flush=True)
    return checks, left_out


def page(checks: list[Check], where: str, left_out: Sequence[str] = ()) -> str:
    """Write the results as Markdown, what failed first."""
    lines = [f"Measured on {where}.", "", "| check | result | s |", "|---|---|--:|"]
    for check in sorted(checks, key=lambda each: each.passed):
        state = check.words if check.passed else f"FAILED: {check.words}"
        lines.append(f"| {check.name} | {state.replace('|', '/')} | {check.seconds:.1f} |")
    lines += ["", f"Left out: {'; '.join(left_out)}."] if left_out else []
    return "\n".join(lines) + "\n"


def describe_device(device: str) -> str:
    """Name the device and the machine."""
    if not device.startswith("cuda"):
        return machine()
    return f"{torch.cuda.get_device_name(torch.device(device))}; {machine()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, with tiny sizes")
    parser.add_argument("--minutes", type=float, default=5.0, help="begin nothing after these")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE")
    parser.add_argument("--only", default="", metavar="WORD", help="checks with this in the name")
    parser.add_argument(
        "--study", type=Path, metavar="FILE", help="images and network that gpu_study packed"
    )
    words = parser.parse_args()
    device = "cpu" if words.dry_run else best_device()
    if device == "cpu" and not words.dry_run:
        parser.error("there is no GPU here; pass --dry-run to try the script on the CPU")
    sizes = TINY if words.dry_run else Sizes()
    until = time.monotonic() + 60 * words.minutes
    tests = [] if words.dry_run else [("tests marked gpu", marked_tests)]
    plain = (*tests, *agreement(device), *measurements(device, sizes))
    todo: list[Todo] = [(name, 0.0, function) for name, function in plain]
    absent = []
    with ExitStack() as stack:
        if words.dry_run or words.study:
            how = gpu_study.SMALL if words.dry_run else gpu_study.StudySizes()
            todo += stack.enter_context(gpu_study.study(words.study, device, how))
        else:
            absent = ["the study of CIFAR-10: no --study FILE, which benchmarks.gpu_study packs"]
            print("left out", absent[0], flush=True)
        chosen = [each for each in todo if words.only in each[0]]
        checks, left_out = run_in_time(chosen, until)
    left_out = [*absent, *left_out]
    failed = [check for check in checks if not check.passed]
    where = describe_device(device)
    if words.json:
        listed = [check.to_json() for check in checks]
        found = {"device": where, "checks": listed, "left_out": left_out}
        words.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if words.page:
        words.page.write_text(page(checks, where, left_out), "utf-8")
    if failed:
        print(f"{len(failed)} of {len(checks)} failed, first: {failed[0].name}: {failed[0].words}")
    return min(1, len(failed))


if __name__ == "__main__":
    sys.exit(main())
