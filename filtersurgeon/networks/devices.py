"""Where networks run."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from filtersurgeon.errors import OptionError, near_misses
from filtersurgeon.networks.failing import told

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
        text = told(f"device {name!r} cannot be used here (", problem, ")")
        raise OptionError(text) from problem
    return device


def device_of(model: nn.Module) -> torch.device:
    """Say where a network is; one without tensors runs on the CPU."""
    import torch

    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def suited(images: Tensor, model: nn.Module) -> Tensor:
    """Move images to a network's device, and to the type of its parameters."""
    import torch

    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return images.to(device_of(model), next(floating, torch.float32))
