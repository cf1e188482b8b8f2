"""How long a network takes, in torch or in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.networks.devices import batch_fits, device_of, wait_for

if TYPE_CHECKING:
    import torch
    from torch import nn

RUNTIMES = ("torch", "onnxruntime")


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass, after warming up.

    Attributes:
        median_ms: median in milliseconds.
        low_ms: first quartile.
        high_ms: third quartile.
        batch_size: images per pass.
        device: where it ran.
        runtime: what ran it, ``torch`` or ``onnxruntime``.
        runs: passes that were timed.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    batch_size: int
    device: str
    runs: int
    runtime: str = "torch"


Pass = Callable[[], float]
"""One forward pass, which is over when it returns; gives its milliseconds."""


def measure_latency(
    model: nn.Module,
    image_shape: Sequence[int],
    batch_size: int = 1,
    runs: int = 20,
    runtime: str = "torch",
) -> Latency:
    """Time forward passes of one network, as :func:`measure_latencies` does of several."""
    return measure_latencies([model], image_shape, batch_size, runs, runtime)[0]


def measure_latencies(
    models: Sequence[nn.Module],
    image_shape: Sequence[int],
    batch_size: int = 1,
    runs: int = 20,
    runtime: str = "torch",
) -> list[Latency]:
    """Time forward passes where the models are, in turn, so that a busy machine is so for all.

    On a GPU, its own clock tells the time between two events around a pass. Operators start one by
    one, without CUDA graphs. Other devices and onnxruntime are timed by the clock of the host.

    Args:
        models: networks on one device; they run in evaluation mode and come back in the mode
            they had.
        image_shape: (channels, height, width).
        batch_size: images per pass.
        runs: timed passes of each, after a quarter as many (at least two) that are not timed.
        runtime: ``torch``, or ``onnxruntime``, to which the networks are exported first.

    Raises:
        OptionError: fewer than one run, or onnxruntime is missing or cannot run the network.
        OutOfMemoryError: the batch does not fit.
    """
    import numpy as np

    device = device_of(models[0])
    modes = [model.training for model in models]
    try:
        with batch_fits(batch_size):
            passes = [
                prepare_pass(model.eval(), image_shape, batch_size, runtime) for model in models
            ]
            times = time_in_turn(passes, runs)
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    quartiles = [np.percentile(found, [25, 50, 75]).tolist() for found in times]
    return [
        Latency(median, low, high, batch_size, str(device), runs, runtime)
        for low, median, high in quartiles
    ]


def prepare_pass(
    model: nn.Module, image_shape: Sequence[int], batch_size: int, runtime: str
) -> Pass:
    """Give a function that runs a network once on zeros, and times it.

    Args:
        model: in evaluation mode.
        image_shape: (channels, height, width).
        batch_size: images per pass.
        runtime: ``torch`` or ``onnxruntime``.

    Raises:
        OptionError: no such runtime, or it is missing or cannot run the network.
    """
    import torch

    check_runtime(runtime)
    device = device_of(model)
    images = torch.zeros(batch_size, *image_shape, device=device)
    if runtime == "torch":

        @torch.inference_mode()
        def run() -> None:
            model(images)

        return _timed(run, device)
    from filtersurgeon.networks import onnx_format
    from filtersurgeon.networks.exporters import plain_outputs

    content = onnx_format.write(plain_outputs(model, images), [images], None, 0)
    session = onnx_format.open_session(content, str(device))
    given = {session.get_inputs()[0].name: images.cpu().numpy()}
    return _timed(lambda: session.run(None, given), torch.device("cpu"))


def check_runtime(runtime: str) -> None:
    """Refuse an unknown runtime, with an :class:`OptionError`."""
    if runtime not in RUNTIMES:
        raise OptionError(f"no runtime called {runtime!r}{near_misses(runtime, RUNTIMES)}")


def time_in_turn(passes: Sequence[Pass], runs: int) -> list[list[float]]:
    """Time passes one after the other, round by round, so that a busy machine is so for all.

    Args:
        passes: what to run.
        runs: timed rounds, after a quarter as many (at least two) that are not timed.

    Returns:
        Of each, the milliseconds of its timed rounds.

    Raises:
        OptionError: fewer than one run.
    """
    if runs < 1:
        raise OptionError(f"latency needs at least 1 run, not {runs}")
    times: list[list[float]] = [[] for _ in passes]
    for run in range(-max(2, runs // 4), runs):
        for once, found in zip(passes, times, strict=True):
            took = once()
            if run >= 0:
                found.append(took)
    return times


def _timed(run: Callable[[], object], device: torch.device) -> Pass:
    """Give a function that runs another one, waits for the device, and gives the milliseconds."""

    def once() -> float:
        start = perf_counter()
        run()
        wait_for(device)
        return 1000 * (perf_counter() - start)

    return _timed_by_events(run, device) if device.type in ("cuda", "xpu") else once


def _timed_by_events(run: Callable[[], object], device: torch.device) -> Pass:
    """Take the time on the device itself, between events before and after."""
    import torch

    library: Any = torch.cuda if device.type == "cuda" else torch.xpu
    start, end = (library.Event(enable_timing=True) for _ in range(2))

    def once() -> float:
        wait_for(device)
        stream = library.current_stream(device)
        start.record(stream)
        run()
        end.record(stream)
        wait_for(device)
        return float(start.elapsed_time(end))

    return once
