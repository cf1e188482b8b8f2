"""A data set of images as a network wants them: its batches, their order, and noise instead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.kinds import IGNORED, VOID, check_mask, kind_of, names_of
from filtersurgeon.data.masks import check_size
from filtersurgeon.data.opening import name_in
from filtersurgeon.data.preprocess import Transform, fit_channels
from filtersurgeon.data.sources import ArrayImages, ImageSource
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.networks.devices import seeded

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader

    from filtersurgeon.data.splits import Part


@dataclass(frozen=True)
class Problem:
    """Why an image could not be read; takes the image's place on its way out of a worker.

    Attributes:
        text: what is wrong with it.
        kind: the class of the error to raise.
    """

    text: str
    kind: type[DataError] = DataError


@dataclass(frozen=True)
class MaskFitting:
    """How masks are brought to the size of the images, and which classes they may hold.

    Attributes:
        transform: from a PIL image of a mask to bytes (1, height, width), with the geometry of the
            transform of the images; None keeps their size.
        n_classes: outputs of the network; None if labels do not matter.
    """

    transform: Transform | None
    n_classes: int | None

    def __call__(self, values: np.ndarray, height: int, width: int) -> Tensor:
        """Give a mask as a network's outputs are, (height, width) of integers.

        Args:
            values: (height, width) bytes: a class, or 255 where a pixel does not count.
            height: rows of the image as it was read.
            width: its columns.

        Raises:
            DataError: it has another size than its image, or classes that the network has not.
        """
        import torch
        from PIL import Image

        check_size(values, height, width)
        check_mask(values, self.n_classes)
        if self.transform is None:
            found = torch.from_numpy(values.astype(np.int64))
        else:
            found = self.transform(Image.fromarray(values))[0].long()
        return found.masked_fill(found == VOID, IGNORED)


@dataclass
class LabelledImages:
    """A map-style dataset of (image tensor, label).

    The label is a class index; (classes,) float32, NaN where it is unknown; or a mask (height,
    width) of classes, -100 where a pixel does not count.

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
        masks: how masks are read; None for labels of other kinds.
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
    masks: MaskFitting | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def kind(self) -> str:
        """The kind of the labels: ``classes``, ``multi-label`` or ``masks``."""
        return kind_of(self.source.labels)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, where the labels tell."""
        return names_of(self.source.labels)

    def __getitem__(self, position: int) -> tuple[Tensor | Problem, Any]:
        index = self.indices[position]
        try:
            image = self._read(index)
            return self._changed(index, self.transform, image), self._label(index, image)
        except DataError as problem:
            return Problem(name_in(problem, self.source.name(index)), type(problem)), 0

    def _changed(self, index: int, change: Callable[..., Tensor], *values: Any) -> Tensor:
        """Apply a transform, with the chance of the image where there is any."""
        if self.random_seed is None:
            return change(*values)
        with seeded(self.random_seed, self.epoch, index):
            return change(*values)

    def _label(self, index: int, image: Any) -> Any:
        """Give the label of an image; a mask is changed as the image is, by the same chance."""
        label = self.source.labels[index]
        if self.masks is None:
            return label
        sides = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
        return self._changed(index, self.masks, label, *sides)

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
    """Read (images, labels) batches; labels are (images,), (images, classes) or masks.

    Raises:
        DataError: an image of the batch could not be read.
    """
    for batch in loader:
        if isinstance(batch, Problem):
            raise batch.kind(f"{batch.text}; `skip_bad` leaves such images out")
        yield batch


def _collate(items: list[tuple[Tensor | Problem, Any]]) -> tuple[Tensor, Tensor] | Problem:
    """Stack a batch, or pass on the first problem in it."""
    import torch

    images = []
    for image, _ in items:
        if isinstance(image, Problem):
            return image
        images.append(image)
    labels = [label for _, label in items]
    if isinstance(labels[0], torch.Tensor):
        return torch.stack(images), torch.stack(labels)
    if isinstance(labels[0], np.ndarray):
        return torch.stack(images), torch.from_numpy(np.stack(labels))
    return torch.stack(images), torch.tensor(labels)


def noise_images(count: int, size: Sequence[int], n_classes: int, seed: int) -> LabelledImages:
    """Draw images of standard normal noise, as a network's preprocessing would leave them.

    Args:
        count: number of images.
        size: channels, height and width.
        n_classes: labels are drawn among these.
        seed: of pixels and labels.
    """
    random = np.random.default_rng([seed, 3])
    channels, height, width = size
    pixels = random.standard_normal((count, height, width, channels), np.float32)
    labels = random.integers(n_classes, size=count).tolist()
    source = ArrayImages(pixels, labels, "noise")
    return LabelledImages(source, range(count), as_tensor, channels, direct=True)


def prepared_images(images: Tensor, title: str) -> LabelledImages:
    """Make a data set, all labels 0, of images that a network takes as they are.

    Args:
        images: ``(n, channels, height, width)``, normalised as the network expects.
        title: how messages call them.
    """
    pixels = images.detach().cpu().float().numpy().transpose(0, 2, 3, 1)
    source = ArrayImages(pixels, [0] * len(pixels), title)
    return LabelledImages(source, range(len(pixels)), as_tensor, pixels.shape[-1], direct=True)


def as_tensor(pixels: np.ndarray) -> Tensor:
    """Give an image as it is, its channels first."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, -1, 0)))


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
