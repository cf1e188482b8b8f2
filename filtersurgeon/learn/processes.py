"""Which of several processes this is, as ``torchrun`` and ``accelerate launch`` say it."""

from __future__ import annotations

import os


def is_first() -> bool:
    """Tell whether this process is the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def count() -> int:
    """Count the processes of this run, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))
