"""Re-estimate the running statistics of batch normalisation on calibration images (--data)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.slim import zero_removed
from filtersurgeon.pruning.compensation.calibration import Calibration
from filtersurgeon.pruning.compensation.readers import Tensors, as_stored


def batchnorm(
    opened: OpenedModel, keep: Mask, changed: Tensors, images: Calibration
) -> dict[str, Tensor]:
    """Set running means and variances to those of the network without the removed channels.

    The images run through it once, every normalisation working with the statistics of its batch;
    those of all batches are averaged, each with equal weight. Nothing else changes.
    Source: Ioffe and Szegedy, *Batch Normalization*, 2015, algorithm 2; re-estimation after a
    change of weights: Izmailov et al., *Averaging Weights Leads to Wider Optima*, 2018, 3.2.

    Args:
        opened: the network.
        keep: group -> whether it is kept.
        changed: tensors with other values than the network's, in its original shapes.
        images: to calibrate with.

    Returns:
        ``changed`` with the re-estimated statistics.
    """
    network = images.replica(opened, zero_removed(opened, keep, changed))
    norms = _running(network)
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # averages, instead of following
        norm.train()
    with torch.no_grad():
        for batch in images.batches():
            network(batch)
    found = dict(changed)
    for name, norm in norms.items():
        for statistic in ("running_mean", "running_var"):
            tensor = f"{name}.{statistic}"
            old = opened.network.get_buffer(tensor)
            found[tensor] = as_stored(norm.get_buffer(statistic), old)
    return found


def _running(network: nn.Module) -> dict[str, _BatchNorm]:
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
