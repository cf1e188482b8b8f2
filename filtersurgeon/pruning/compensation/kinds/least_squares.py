"""Refit every layer that reads removed channels, in closed form, on calibration images (--data)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.networks.devices import mix
from filtersurgeon.pruning.compensation.calibration import Calibration
from filtersurgeon.pruning.compensation.fits import ChannelFit, PatchFit, plan_fits
from filtersurgeon.pruning.compensation.readers import (
    Intercepts,
    Tensors,
    as_stored,
    current,
    readers,
)
from filtersurgeon.pruning.compensation.watch import Call, watch

Fits = Mapping[str, Sequence[PatchFit | ChannelFit]]


def least_squares(
    opened: OpenedModel, keep: Mask, changed: Tensors, images: Calibration
) -> dict[str, Tensor]:
    """Let the layers that read removed channels make the same of those that are kept.

    With inputs x (all that a filter sees at a position) and outputs W x of the whole network, the
    weights of a layer become ``argmin_{W', c} sum ||W x - W' x_left - c||^2 + ridge ||W' - W||^2``,
    solved from second moments in float64. The constant c goes into the layer's bias, or into the
    running mean of the batch normalisation behind it; where there is neither, it is zero. The
    sums run over the images and up to 32 positions of each. Every layer is fitted to inputs of the
    whole network, all in one pass: fitting layer after layer to inputs of the cut network takes as
    many passes as there are layers, and on ResNet-20 was no better. Kernels that were zeroed but
    not cut come back where the fit needs them.

    Where a filter sees more than 4,608 numbers, such as the first linear layer of VGG-16, removed
    channels are modelled by those left at the same position, ``x_gone = A x_left + b``, and the
    weights that read them go where A says. Transposed convolutions are left alone.
    Source: He, Zhang and Sun, *Channel Pruning for Accelerating Very Deep Neural Networks*, 2017,
    the reconstruction step of Eq. 1; the constant and the ridge towards W are added here.

    Args:
        opened: the network.
        keep: group -> whether it is kept.
        changed: tensors with other values than the network's, in its original shapes.
        images: to calibrate with.

    Returns:
        ``changed`` with the refitted weights, biases and running means.
    """
    network = images.replica(opened, {})
    intercepts = Intercepts(opened)

    def collect() -> Fits:
        fits = {
            reader.layer.name: plan_fits(reader, network.get_parameter(reader.layer.tensor))
            for reader in readers(opened, keep)
            if not reader.layer.transposed
        }
        _collect(network, fits, images)
        return fits

    fits = images.repeat(collect)
    found = dict(changed)
    for parts in fits.values():
        if any(part.moments is None for part in parts):
            continue  # the network does not call it on these images
        _refit(opened, network, parts, intercepts, found)
    return found


def _collect(network: nn.Module, fits: Fits, images: Calibration) -> None:
    """Run the images through the whole network, and sum up what layers read and make."""
    numbers = {name: number for number, name in enumerate(fits)}
    for at, batch in enumerate(images.batches()):

        def learn(name: str, call: Call, at: int = at) -> None:
            seed = mix(images.seed, at, numbers[name])
            bias = getattr(network.get_submodule(name), "bias", None)
            for part in fits[name]:
                part.learn(call, bias, torch.Generator().manual_seed(seed))

        watch(network, batch, fits, learn)


def _refit(
    opened: OpenedModel,
    network: nn.Module,
    parts: Sequence[PatchFit | ChannelFit],
    intercepts: Intercepts,
    found: dict[str, Tensor],
) -> None:
    """Give a layer its new weights and constants, in place of those found so far."""
    layer = parts[0].part.reader.layer
    original = network.get_parameter(layer.tensor).detach()
    weight, constants = original.clone(), torch.zeros(len(original), dtype=torch.float64)
    for each in parts:
        rows = each.part.outputs
        weight[rows], constant = each.solve(original[rows], layer.name in intercepts)
        constants[rows] = constant.cpu()
    found[layer.tensor] = as_stored(weight, current(opened, layer.tensor, found))
    if layer.name in intercepts:
        found.update(intercepts.add(layer.name, constants, opened, found))
