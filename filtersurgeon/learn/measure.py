"""Size and speed of a network."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

from filtersurgeon.errors import OptionError
from filtersurgeon.networks.devices import device_of
from filtersurgeon.networks.memory import batch_fits

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass, after warming up.

    Attributes:
        median_ms: median in milliseconds.
        low_ms: first quartile.
        high_ms: third quartile.
        batch_size: images per pass.
        device: where it ran.
        runs: passes that were timed.
    """

    median_ms: float
    low_ms: float
    high_ms: float
    batch_size: int
    device: str
    runs: int


def count_parameters(model: nn.Module) -> int:
    """Count trainable and frozen weights; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, image_shape: Sequence[int]) -> int:
    """Count multiply-accumulates of convolutions, linear, attention and recurrent layers.

    Args:
        model: any network.
        image_shape: (channels, height, width).

    Returns:
        Half of what torch's own counter of floating-point operations finds for one image.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    image = torch.zeros(1, *image_shape, device=device_of(model))
    was_training = model.training
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), _in_pieces(), counter:
            model.eval()(image)
    finally:
        model.train(was_training)
    return int(counter.get_total_flops()) // 2


@contextmanager
def _in_pieces() -> Iterator[None]:
    """Run attention and recurrent layers as the products they are made of, which are counted."""
    from torch.backends.mkldnn import flags
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration")
        with sdpa_kernel(SDPBackend.MATH), flags(enabled=False):
            yield


def measure_latency(
    model: nn.Module,
    image_shape: Sequence[int],
    batch_size: int = 1,
    runs: int = 20,
) -> Latency:
    """Time forward passes of one network, as :func:`measure_latencies` does of several."""
    return measure_latencies([model], image_shape, batch_size, runs)[0]


def measure_latencies(
    models: Sequence[nn.Module],
    image_shape: Sequence[int],
    batch_size: int = 1,
    runs: int = 20,
) -> list[Latency]:
    """Time forward passes where the models are, in turn, so that a busy machine is so for all.

    Args:
        models: networks on one device; they run in evaluation mode and come back in the mode
            they had.
        image_shape: (channels, height, width).
        batch_size: images per pass.
        runs: timed passes of each, after a quarter as many (at least two) that are not timed.

    Raises:
        OptionError: fewer than one run.
        OutOfMemoryError: the batch does not fit.
    """
    import numpy as np
    import torch

    if runs < 1:
        raise OptionError(f"latency needs at least 1 run, not {runs}")
    device = device_of(models[0])
    images = torch.zeros(batch_size, *image_shape, device=device)
    finish = _synchroniser(device)
    modes = [model.training for model in models]
    times: list[list[float]] = [[] for _ in models]
    try:
        with torch.inference_mode(), batch_fits(batch_size):
            for run in range(-max(2, runs // 4), runs):
                for model, found in zip(models, times, strict=True):
                    took = _time_pass(model.eval(), images, finish)
                    if run >= 0:
                        found.append(took)
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    quartiles = [np.percentile(found, [25, 50, 75]).tolist() for found in times]
    return [
        Latency(median, low, high, batch_size, str(device), runs) for low, median, high in quartiles
    ]


def _time_pass(model: nn.Module, images: Tensor, finish: Callable[[], None]) -> float:
    """Give the milliseconds of one forward pass."""
    finish()
    start = perf_counter()
    model(images)
    finish()
    return 1000 * (perf_counter() - start)


def _synchroniser(device: torch.device) -> Callable[[], None]:
    """Give a function that waits until the device has done its work."""
    import torch

    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    if device.type == "mps":
        return torch.mps.synchronize
    return lambda: None
