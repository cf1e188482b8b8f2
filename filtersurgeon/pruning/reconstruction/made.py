"""Calibration without images: some are made from what the network's batch norms remember."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.images import prepared_images
from filtersurgeon.errors import DataError, FilterSurgeonError
from filtersurgeon.learn.network_images import images_of_network
from filtersurgeon.learn.networks import Network
from filtersurgeon.networks.dry_run import find_size
from filtersurgeon.pruning.compensation.calibration import Calibration

SMALL = 64
UNKNOWN = 32
"""Sides of the images of a network that does not say what it wants: mostly CIFAR's."""
_SMALL_NUMBER = 256
_LARGE_NUMBER = 96
_STEPS = (30, 24)


def make_calibration(
    network: Network, size: Sequence[int], seed: int, progress: Progress | None = None
) -> Calibration:
    """Make images whose statistics in front of every batch norm are those that it stores.

    Args:
        network: in evaluation mode.
        size: of an image, as :func:`size_to_make` gives it.
        seed: of the noise.
        progress: told how many steps of how many are done.

    Raises:
        DataError: the network has no batch norm that stores any; names the remedy.
    """
    if len(size) != _IMAGE_AXES:
        raise DataError(
            f"{network.name} takes inputs of size {','.join(map(str, size))}, and only images are "
            "made from a network; cut by a `method`"
        )
    small = max(size) <= SMALL
    number = _SMALL_NUMBER if small else _LARGE_NUMBER
    try:
        images = images_of_network(
            network, number, size=size, seed=seed, steps=_STEPS[not small], progress=progress
        )
    except FilterSurgeonError as error:
        raise DataError(f"{error}; pass images with `data`, or cut by a `method`") from error
    made = prepared_images(images, "images made from the network")
    return Calibration(made, 0, torch.device("cpu"), seed)


_IMAGE_AXES = 3


def size_to_make(network: Network, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Give the size of the images: the network's own, or a small one that it runs on."""
    if network.preprocessing.input_size is not None:
        return network.preprocessing.input_size
    own = find_size(network.model, checkpoint)
    if (checkpoint.pretrained_cfg or {}).get("input_size"):
        return own
    small = torch.zeros(1, own[0], *(UNKNOWN for _ in own[1:]))
    try:
        with torch.no_grad():
            network.model.eval()(small)
    except Exception:  # whatever the network's own code raises
        return own
    return tuple(small.shape[1:])
