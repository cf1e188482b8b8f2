"""Calibration images, and networks to run them through."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import DataSpec, ImageRun, open_data, part_of
from filtersurgeon.data.images import LabelledImages, batches, make_loader
from filtersurgeon.data.kinds import ALL_KINDS, CLASSES
from filtersurgeon.data.reading import has_labels
from filtersurgeon.data.splits import FIT
from filtersurgeon.errors import DataError
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.learn.networks import Network, open_network, running
from filtersurgeon.networks.devices import FittingBatches, find_device

_BATCH = 32
Result = TypeVar("Result")


@dataclass(frozen=True)
class Calibration:
    """Images that a compensation looks at; their labels play no part.

    Attributes:
        images: as the network wants them.
        workers: processes that read them ahead.
        device: where networks run.
        seed: random seed, of their order and of samples from them.
        own: whether the labels are those of the network.
        fitting: how many images a batch has; halved by what runs out of memory.
    """

    images: LabelledImages
    workers: int
    device: torch.device
    seed: int
    own: bool = False
    fitting: FittingBatches = field(default_factory=lambda: FittingBatches(_BATCH))

    @property
    def kind(self) -> str:
        """The kind of the labels, see ``data/kinds.py``; ``classes`` where they play no part."""
        return self.images.kind if self.own else CLASSES

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the labels stand for, if the images tell."""
        return self.images.class_names

    def batches(self) -> Iterator[Tensor]:
        """Give the images, ``(n, channels, height, width)`` on the device, always in one order.

        Raises:
            DataError: an image cannot be read.
        """
        for images, _ in self.labelled_batches():
            yield images

    def labelled_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the images as :meth:`batches` does, with their labels.

        Where labels are missing, or not the network's, they are -1.

        Raises:
            DataError: an image cannot be read.
        """
        for images, labels in batches(make_loader(self.images, self.fitting.size, self.workers)):
            yield images.to(self.device), labels if self.own else torch.full_like(labels, -1)

    def repeat(self, function: Callable[[], Result]) -> Result:
        """Call a function that runs all batches; again with half of a batch if memory runs out.

        Raises:
            OutOfMemoryError: a single image does not fit.
        """
        return self.fitting.repeat(lambda _: function())

    def image_size(self) -> tuple[int, ...] | None:
        """Give the shape of the first image that can be read; None if there is none."""
        images = (self.images[number][0] for number in range(len(self.images)))
        return next((tuple(image.shape) for image in images if isinstance(image, Tensor)), None)

    def replica(self, opened: OpenedModel, tensors: Mapping[str, Tensor]) -> nn.Module:
        """Copy a network in float32 and in evaluation mode, some of its tensors exchanged.

        Its parameters share the memory of the original's where they are of that type and on the
        device: write to none of them in place.
        """
        own = {
            id(p): nn.Parameter(p.detach(), p.requires_grad) for p in opened.network.parameters()
        }
        network = deepcopy(opened.network, own).float().eval().to(self.device)
        owned = {**dict(network.named_buffers()), **dict(network.named_parameters())}
        with torch.no_grad():
            for name, tensor in tensors.items():
                owned[name].data = tensor.to(owned[name], copy=True)
        return network


def open_calibration(checkpoint: Checkpoint, run: ImageRun, seed: int) -> Calibration:
    """Open images for a network.

    Raises:
        DataError: they are missing or do not fit the network.
        OptionError: there is no such device.
    """
    with running(checkpoint.name):
        network = open_network(checkpoint, run.preprocess)
        images, own = _open_images(run.data, network)
    if run.tell is not None:
        for text in images.notes:
            run.tell(text)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    device = find_device(run.device)
    return Calibration(images.take(order.tolist()), run.workers, device, seed, own)


def _open_images(spec: DataSpec, network: Network) -> tuple[LabelledImages, bool]:
    """Open images, and tell whether their labels are those of the network."""
    labelled = None
    if has_labels(spec.source, part_of(spec, FIT), spec.labels):
        with suppress(DataError):  # labels of other classes do not matter
            labelled = open_data(
                spec, network.preprocessing, network.n_classes, use=FIT, kinds=ALL_KINDS
            )
    if labelled is not None and not spec.skip_bad:
        return labelled, True
    images = open_data(spec, network.preprocessing, network.n_classes, use=FIT, labelled=False)
    if labelled is not None and len(labelled) == len(images):
        return labelled, True
    return images, False
