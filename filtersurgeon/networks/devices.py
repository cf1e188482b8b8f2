"""Where networks run: devices, the advice when memory runs out, and reproducible random numbers."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import (
    FilterSurgeonWarning,
    OptionError,
    OutOfMemoryError,
    near_misses,
    ran_out_of_memory,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

AUTO = "auto"
KINDS = ("cpu", "cuda", "mps", "xpu")
_TURN = {"job": 0}


def check_device_name(name: str) -> None:
    """Refuse what is not the name of a device.

    Raises:
        OptionError: it is not.
    """
    kind, _, number = name.partition(":")
    known = name == AUTO or kind in KINDS
    if not known or (number and not number.isdecimal()) or name.endswith(":"):
        raise OptionError(f"device {name!r} is unknown{near_misses(kind, (AUTO, *KINDS))}")


def accelerators() -> tuple[str, ...]:
    """Name the GPUs that ``auto`` may take, as torch does: ``cuda:0``, or ``xpu:0``.

    An Apple GPU (``mps``) is not among them: it has no float64, in which sums are kept.
    """
    import torch

    for kind, library in (("cuda", torch.cuda), ("xpu", torch.xpu)):
        if library.is_available():
            return tuple(f"{kind}:{number}" for number in range(library.device_count()))
    return ()


def best_device() -> str:
    """Name the device that ``auto`` stands for: a GPU if there is one, else the CPU.

    Jobs side by side take the GPUs in turn.
    """
    found = accelerators()
    return found[_TURN["job"] % len(found)] if found else "cpu"


def take_turn(job: int) -> None:
    """Say which of several jobs this process does, so that each takes another GPU."""
    _TURN["job"] = job


def find_accelerator(name: str) -> str | None:
    """Give the GPU for work in float64 that needs no network, or None for the CPU.

    ``auto`` is the CPU: whether a GPU is faster at such work depends on how much there is of it.

    Raises:
        OptionError: there is no such device on this machine, or it has no float64.
    """
    check_device_name(name)
    if name in (AUTO, "cpu"):
        return None
    device = find_device(name)
    if device.type == "mps":
        raise OptionError("device 'mps' has no float64, which this needs; leave `device` out")
    return None if device.type == "cpu" else str(device)


def find_device(name: str) -> torch.device:
    """Give torch's device of a name such as ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        OptionError: there is no such device, or not on this machine.
    """
    import torch

    check_device_name(name)
    name = best_device() if name == AUTO else name
    try:
        device = torch.device(name)  # refuses numbers that no device has
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


class FittingBatches:
    """Runs batches whole, or in halves from the first that does not fit into memory.

    For functions that treat every row by itself, as a network in evaluation mode does its images.

    Args:
        batch_size: rows of a whole batch.
        what: what a batch size counts, where the user names no batch size.
        least: the smallest batch that the work can be done with.
        note: what the warning adds.
    """

    def __init__(self, batch_size: int, what: str = "", least: int = 1, note: str = "") -> None:
        self.size, self.what, self.least, self.note = batch_size, what, least, note

    def run(
        self, function: Callable[[Tensor], Any], images: Tensor, *more: Tensor
    ) -> Iterator[tuple[Any, ...]]:
        """Call a function on a batch.

        Args:
            function: takes images; what it gives may not depend on how many there are.
            images: (images, ...).
            more: tensors of as many rows, such as labels.

        Yields:
            What the function gives, with the rows that it is for, of the images and of the rest.

        Raises:
            OutOfMemoryError: a single image does not fit.
        """
        start = 0
        while start < len(images):
            rows = slice(start, start + self.size)
            with self.halving(len(images) - start) as tried:
                found = function(images[rows])
            if tried.fitted:
                yield found, images[rows], *(each[rows] for each in more)
                start += self.size

    def repeat(self, function: Callable[[int], Any]) -> Any:
        """Call a function with the batch size until its batches fit; it begins anew each time.

        For functions that carry sums from batch to batch.

        Raises:
            OutOfMemoryError: a single row does not fit.
        """
        while True:
            with self.halving() as tried:
                found = function(self.size)
            if tried.fitted:
                return found

    @contextmanager
    def halving(self, most: int | None = None) -> Iterator[Tried]:
        """Halve the batch size, with a warning, if the block runs out of memory.

        Args:
            most: rows that there are, where these may be fewer than a batch.

        Yields:
            Whether the block came to its end.

        Raises:
            OutOfMemoryError: a single row does not fit.
        """
        tried = Tried()
        try:
            yield tried
        except (RuntimeError, MemoryError, OutOfMemoryError) as problem:
            if not ran_out_of_memory(problem):
                raise
            # What the traceback holds must be freed before the next try.
            self._halve(min(self.size, most or self.size), problem)
            _forget(problem)
        else:
            tried.fitted = True
            return
        give_back_device_memory()

    def _halve(self, size: int, problem: BaseException) -> None:
        if size <= self.least:
            raise OutOfMemoryError(_advice(size, self.least)) from problem
        self.size = max(self.least, size // 2)
        words = (
            (f"{size} {self.what}", f"{self.size}")
            if self.what
            else (f"batch size {size}", f"batch size {self.size}")
        )
        warnings.warn(
            f"out of memory with {words[0]}; continuing with {words[1]}{self.note}",
            FilterSurgeonWarning,
            stacklevel=2,
        )


@dataclass
class Tried:
    """Whether a block came to its end, and did not run out of memory."""

    fitted: bool = False


def _forget(problem: BaseException) -> None:
    """Let go of the tensors that the frames of an exception hold."""
    seen: BaseException | None = problem
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__cause__ or seen.__context__


def give_back_device_memory() -> None:
    """Give a GPU's driver what torch keeps of freed memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def wait_for(device: torch.device) -> None:
    """Wait until a device has done its work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "xpu":
        torch.xpu.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def copy_number(tensor: Tensor) -> Any:
    """Copy a single number to the host, which waits until the device has computed it."""
    return tensor.tolist()


def widest_float(device: torch.device) -> torch.dtype:
    """Give the type in which sums are kept on a device: float64, where it has it."""
    import torch

    return torch.float32 if device.type == "mps" else torch.float64


def give_back_memory() -> None:
    """Give the system what this process has freed: glibc keeps what small blocks lay in."""
    import ctypes

    with suppress(OSError, AttributeError, TypeError):  # another system or C library
        ctypes.CDLL(None).malloc_trim(0)


def _advice(batch_size: int, least: int = 1) -> str:
    """Suggest half the batch, or a smaller picture where there is no half."""
    if batch_size > least:
        return f"out of memory with batch size {batch_size}; try batch size {batch_size // 2}"
    return f"out of memory with batch size {batch_size}; use a smaller input size or another device"


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
