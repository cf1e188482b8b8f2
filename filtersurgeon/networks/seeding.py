"""Random numbers that depend on where we are, not on how we came there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
