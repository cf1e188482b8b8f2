"""Second moments of what the kernels of layers see in the running network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.data import ImageRun
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import FilterLayer
from filtersurgeon.learn.networks import open_network
from filtersurgeon.networks.devices import mix
from filtersurgeon.pruning.compensation.calibration import Calibration, open_calibration
from filtersurgeon.pruning.compensation.sampling import patches
from filtersurgeon.pruning.compensation.watch import Call, watch

_POSITIONS = 64


class KernelInputs(NamedTuple):
    """What the kernels of a layer see.

    Attributes:
        moments: ``(in, m, m)`` second moments of the m inputs at a position, by channel.
        owner: ``(kernels,)`` the channel that each kernel reads.
    """

    moments: np.ndarray
    owner: np.ndarray


def kernel_inputs(
    checkpoint: Checkpoint,
    layers: Iterable[FilterLayer],
    run: ImageRun,
    seed: int,
    centred: bool,
    *,
    all_layers: bool = True,
) -> dict[str, KernelInputs]:
    """Sum up what kernels see of images, at 64 positions of each.

    Args:
        checkpoint: the network.
        layers: its convolutions.
        run: the images.
        seed: of the positions.
        centred: take moments about the mean, for a constant in the outputs does not matter where
            statistics are matched.
        all_layers: refuse layers that cannot be seen, instead of leaving them out.

    Returns:
        Layer -> moments.

    Raises:
        ArchitectureError: the network cannot be built.
        LayerError: the network does not call a layer, or computes its weights before it does.
        DataError: the images are missing or do not fit.
    """
    calibration = open_calibration(checkpoint, run, seed)
    network = open_network(checkpoint, run.preprocess).model.eval().to(calibration.device)
    sizes = {layer.name: layer.kernel_size for layer in layers}
    sums, counts = calibration.repeat(lambda: _sum_up(network, calibration, sizes, seed))
    unseen = next((name for name in sizes if name not in sums), None)
    if unseen is not None and all_layers:
        raise LayerError(
            f"layer {unseen} is not called with its stored weights, so its outputs cannot be "
            f"fitted; use `fit='weights'`, or leave it out with `layers` '!{unseen}'"
        )
    found = {}
    for layer in (layer for layer in layers if layer.name in sums):
        gram, total = (value.cpu().numpy() / counts[layer.name] for value in sums[layer.name])
        if centred:
            gram = gram - total[:, :, None] * total[:, None]
        groups = len(gram) // layer.shape[1]
        filters, inputs = np.divmod(np.arange(layer.n_kernels), layer.shape[1])
        group = filters // max(1, layer.shape[0] // groups)
        found[layer.name] = KernelInputs(gram, group * layer.shape[1] + inputs)
    return found


def _sum_up(
    network: nn.Module, calibration: Calibration, sizes: Mapping[str, tuple[int, ...]], seed: int
) -> tuple[dict[str, list[Tensor]], dict[str, int]]:
    """Run all images, and sum up what kernels see: layer -> moments and totals; layer -> count."""
    sums: dict[str, list[Tensor]] = {}
    counts = dict.fromkeys(sizes, 0)
    order = {name: number for number, name in enumerate(sizes)}
    for number, batch in enumerate(calibration.batches()):

        def learn(name: str, call: Call, number: int = number) -> None:
            draw = torch.Generator().manual_seed(mix(seed, number, order[name]))
            rows = patches(call, sizes[name], _POSITIONS, draw)[0].double()
            by_channel = rows.permute(2, 0, 1)
            found = [by_channel.transpose(1, 2) @ by_channel, by_channel.sum(1)]
            counts[name] += rows.shape[0]
            known = sums.get(name)
            sums[name] = (
                found if known is None else [a + b for a, b in zip(known, found, strict=True)]
            )

        watch(network, batch, sizes, learn)
    return sums, counts
