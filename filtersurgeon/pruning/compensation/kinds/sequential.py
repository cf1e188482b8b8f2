"""Refit every layer that reads removed channels, front to back, on images (--data)."""

from __future__ import annotations

import numpy as np
import torch

from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.networks.devices import FittingBatches
from filtersurgeon.pruning.compensation.calibration import Calibration
from filtersurgeon.pruning.compensation.readers import Tensors, as_stored, current


def sequential(
    opened: OpenedModel, keep: Mask, changed: Tensors, images: Calibration
) -> dict[str, torch.Tensor]:
    """Let every layer that reads removed channels make of the cut network's values what it made.

    As ``least-squares``, but the layers are fitted in the order of the run, each to inputs that
    the network gives it when all layers before are cut and refitted; its target is what it made in
    the original network, and what the residual stream lacks by then. Layers that lose no channels
    but read changed ones, as along a residual stream, are refitted as well, unless they read a
    mean over space. A fifth of the images is held out to choose each layer's ridge. Layers that
    the network calls more than once are left alone. Source: He, Zhang and Sun, *Channel Pruning
    for Accelerating Very Deep Neural Networks*, 2017, who fit layers in this order and take in
    what the residual stream lacks.

    Args:
        opened: the network.
        keep: group -> whether it is kept.
        changed: tensors with other values than the network's, in its original shapes.
        images: to calibrate with.

    Returns:
        ``changed`` with the refitted weights, biases and running means.
    """
    from filtersurgeon.pruning.reconstruction.calibration import open_bench, repeat_on_bench
    from filtersurgeon.pruning.reconstruction.importance import fisher
    from filtersurgeon.pruning.reconstruction.sequential import Cut, cut_front_to_back

    def refit(fitting: FittingBatches) -> Cut:
        bench = open_bench(opened, images, streams=True, fitting=fitting)
        importance = fisher(bench, images.seed)
        return cut_front_to_back(
            bench, {}, {}, importance, images.seed, gone=np.flatnonzero(~keep), start=changed
        )

    cut = repeat_on_bench(refit)
    return as_network(opened, {**changed, **cut.changed})


def as_network(opened: OpenedModel, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Give tensors the types that they have in the network, on the CPU."""
    return {name: as_stored(value, current(opened, name, {})) for name, value in tensors.items()}
