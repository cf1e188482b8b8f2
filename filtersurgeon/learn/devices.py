"""Where networks run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.errors import OptionError, near_misses

if TYPE_CHECKING:
    import torch

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
        reason = str(problem).strip().partition("\n")[0]
        raise OptionError(f"device {name!r} cannot be used here ({reason})") from problem
    return device
