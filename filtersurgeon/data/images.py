"""A dataset of images as a network wants them, and how it is read in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from filtersurgeon.data.preprocess import Transform, fit_channels
from filtersurgeon.data.sources import ArrayImages, ImageSource
from filtersurgeon.errors import DataError
from filtersurgeon.networks.seeding import seeded

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

    from filtersurgeon.data.splits import Part


@dataclass(frozen=True)
class Problem:
    """Why an image could not be read; takes the image's place on its way out of a worker."""

    text: str


@dataclass
class LabelledImages:
    """A map-style dataset of (image tensor, class index).

    Attributes:
        source: where images come from.
        indices: positions in the source that are used, in order.
        transform: from a PIL image to a tensor, or from an array if ``direct``.
        channels: input channels of the network.
        direct: the source's arrays go into the transform as they are.
        random_seed: seed of a random transform, or None for one without chance.
        notes: what a person should know about the data, one line each.
        part: which part of which data set they are, where that is known.
        epoch: which epoch's random changes to make.
    """

    source: ImageSource
    indices: Sequence[int]
    transform: Transform
    channels: int
    direct: bool = False
    random_seed: int | None = None
    notes: list[str] = field(default_factory=list)
    part: Part | None = None
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor | Problem, int]:
        index = self.indices[position]
        label = self.source.labels[index]
        try:
            image = self._read(index)
        except Exception as problem:  # Pillow's decoders raise nearly everything
            return Problem(f"{self.source.name(index)}: cannot be read ({problem})"), label
        if self.random_seed is None:
            return self.transform(image), label
        with seeded(self.random_seed, self.epoch, index):
            return self.transform(image), label

    def _read(self, index: int) -> Any:
        """Read an image in the form that the transform takes."""
        if self.direct and isinstance(self.source, ArrayImages):
            return self.source.pixels[index]
        return fit_channels(self.source.image(index), self.channels)

    def take(self, positions: Sequence[int]) -> LabelledImages:
        """Give the dataset of only these positions."""
        return replace(self, indices=[self.indices[position] for position in positions])

    def shard(self, number: int, count: int) -> LabelledImages:
        """Give every ``count``-th image, from the ``number``-th on."""
        return self.take(range(number, len(self), count))


def make_loader(
    data: LabelledImages, batch_size: int, workers: int = 0, sampler: Any = None
) -> DataLoader:
    """Make a loader of (images, labels) batches, in order unless a sampler says otherwise.

    Args:
        data: the images.
        batch_size: images per batch; the last one may be smaller.
        workers: processes that read ahead; 0 reads in this one.
        sampler: positions to read, in order.
    """
    import torch
    from torch.utils.data import DataLoader

    return DataLoader(
        data,  # type: ignore[arg-type]
        batch_size=batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )


def batches(loader: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Read (images, labels) batches.

    Raises:
        DataError: an image of the batch could not be read.
    """
    for batch in loader:
        if isinstance(batch, Problem):
            raise DataError(f"{batch.text}; `skip_bad` leaves such images out")
        yield batch


def _collate(items: list[tuple[Tensor | Problem, int]]) -> tuple[Tensor, Tensor] | Problem:
    """Stack a batch, or pass on the first problem in it."""
    import torch

    images = []
    for image, _ in items:
        if isinstance(image, Problem):
            return image
        images.append(image)
    return torch.stack(images), torch.tensor([label for _, label in items])
