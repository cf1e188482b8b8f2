"""In which order a training run sees its images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from filtersurgeon.errors import OptionError


@dataclass
class EpochOrder:
    """A sampler whose order depends on seed and epoch only.

    Every process takes its share of each batch, so the batches are the same however many
    processes there are; a run that is resumed starts at any step.

    Attributes:
        n_images: images in the data.
        batch_size: images per step over all processes; a last, smaller batch is left out.
        seed: of the permutations.
        rank: number of this process.
        world: how many processes there are.
        epoch: the epoch to draw.
        first_step: how many steps of it to leave out.
    """

    n_images: int
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    epoch: int = 0
    first_step: int = 0

    def __post_init__(self) -> None:
        # Less data than one batch is one smaller batch.
        self.batch_size = min(self.batch_size, self.n_images - self.n_images % self.world)
        if self.batch_size == 0 or self.batch_size % self.world:
            raise OptionError(
                f"batch size {self.batch_size} cannot be shared among {self.world} processes"
            )

    @property
    def steps(self) -> int:
        """Steps per epoch."""
        return self.n_images // self.batch_size

    @property
    def local_batch_size(self) -> int:
        """Images per step of one process."""
        return self.batch_size // self.world

    def begin(self, epoch: int, first_step: int = 0) -> None:
        """Choose the epoch, and the step to start it at."""
        self.epoch, self.first_step = epoch, first_step

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.local_batch_size

    def __iter__(self) -> Iterator[int]:
        import numpy as np

        shuffled = np.random.default_rng([self.seed, self.epoch]).permutation(self.n_images)
        rows = shuffled[: self.steps * self.batch_size].reshape(self.steps, self.batch_size)
        start = self.rank * self.local_batch_size
        share = rows[self.first_step :, start : start + self.local_batch_size]
        return iter(share.reshape(-1).tolist())
