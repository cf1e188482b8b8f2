"""Where networks run: devices, the advice when memory runs out, and reproducible random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from typing import TYPE_CHECKING

from filtersurgeon.errors import OptionError, OutOfMemoryError, near_misses, ran_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

KINDS = ("cpu", "cuda", "mps", "xpu")


def find_device(name: str) -> torch.device:
    """Give torch's device of a name such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        OptionError: there is no such device, or not on this machine.
    """
    import torch

    kind, _, number = name.partition(":")
    if kind not in KINDS or (number and not number.isdecimal()) or name.endswith(":"):
        raise OptionError(f"device {name!r} is unknown{near_misses(kind, KINDS)}")
    device = torch.device(name)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        raise OptionError(
            f"device {name!r} is not available on this machine; fsurgeon doctor lists the devices"
        ) from problem
    return device


def device_of(model: nn.Module) -> torch.device:
    """Say where a network is; one without tensors runs on the CPU."""
    import torch

    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def move_like(images: Tensor, model: nn.Module) -> Tensor:
    """Move images to a network's device, and to the type of its parameters."""
    import torch

    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return images.to(device_of(model), next(floating, torch.float32))


@contextmanager
def batch_fits(batch_size: int) -> Iterator[None]:
    """Turn running out of memory into a suggestion of half the batch size.

    Raises:
        OutOfMemoryError: the block ran out of memory.
    """
    try:
        yield
    except OutOfMemoryError:
        raise
    except (RuntimeError, MemoryError) as problem:
        if not ran_out_of_memory(problem):
            raise
        raise OutOfMemoryError(_advice(batch_size)) from problem


def give_back_memory() -> None:
    """Give the system what this process has freed: glibc keeps what small blocks lay in."""
    import ctypes

    with suppress(OSError, AttributeError, TypeError):  # another system or C library
        ctypes.CDLL(None).malloc_trim(0)


def _advice(batch_size: int) -> str:
    """Suggest half the batch, or a smaller picture where there is no half."""
    if batch_size > 1:
        return f"out of memory with batch size {batch_size}; try batch size {batch_size // 2}"
    return "out of memory with batch size 1; use a smaller input size or another device"


def mix(*parts: int) -> int:
    """Mix whole numbers into one seed of 32 bits, by NumPy's seed sequence."""
    import numpy as np

    return int(np.random.SeedSequence([part & 0xFFFFFFFF for part in parts]).generate_state(1)[0])


@contextmanager
def seeded(*parts: int) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's CPU generators inside the block, then put them back.

    Augmentation and dropout seeded by (seed, epoch, position) are the same whatever the number
    of workers or processes, and after a resumed run.
    """
    import random

    import numpy as np
    import torch

    seed = mix(*parts)
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
