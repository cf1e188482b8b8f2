"""Running statistics of batch normalisation, re-estimated on images."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filtersurgeon.errors import DataError


def reestimate(network: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Give the running means and variances that a network has on some images.

    The images run through it once, every normalisation working with the statistics of its batch;
    those of all batches are averaged, weighted by their numbers of images.
    Source: Ioffe and Szegedy, *Batch Normalization*, 2015, algorithm 2; re-estimation after a
    change of weights: Izmailov et al., *Averaging Weights Leads to Wider Optima*, 2018, 3.2.

    Args:
        network: in evaluation mode; its statistics change.
        batches: images, ``(n, channels, height, width)``. A batch of a single image has no
            statistics where a layer has a single position, and is left out.

    Returns:
        ``running_mean`` and ``running_var`` of every batch normalisation that has them, by name.

    Raises:
        DataError: there is no batch of at least two images.
    """
    norms = running_norms(network)
    for norm in norms.values():
        norm.reset_running_stats()
        norm.train()
    total = 0
    with torch.no_grad():
        for batch in batches:
            if len(batch) < 2:
                continue
            total += len(batch)
            for norm in norms.values():
                norm.momentum = len(batch) / total
            network(batch)
    if norms and not total:
        raise DataError("batch-norm statistics need at least two images")
    return {
        f"{name}.{statistic}": norm.get_buffer(statistic)
        for name, norm in norms.items()
        for statistic in ("running_mean", "running_var")
    }


def running_norms(network: nn.Module) -> dict[str, _BatchNorm]:
    """Give the batch normalisations that hold running statistics, by name."""
    return {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
