"""Make up for weights that were replaced in place, without training, on images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.tensor import StoredTensor, from_torch, torch_dtypes
from filtersurgeon.data.data import ImageRun
from filtersurgeon.errors import LayerError
from filtersurgeon.graph.opened_model import OpenedModel, fold_standardised, open_model
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.networks.build import build
from filtersurgeon.networks.devices import FittingBatches
from filtersurgeon.networks.structure.plain_weights import make_all_plain
from filtersurgeon.pruning.compensation.calibration import Calibration, open_calibration
from filtersurgeon.pruning.compensation.statistics import match, running_norms
from filtersurgeon.pruning.reconstruction.calibration import open_bench, repeat_on_bench
from filtersurgeon.pruning.reconstruction.importance import fisher
from filtersurgeon.pruning.reconstruction.refitting import refit_front_to_back

WHY = {
    "batchnorm": "batch-norm statistics matched to those of the original network",
    "least-squares": "refitted to what the original network computes",
}


def compensate_edit(
    before: Checkpoint, after: Checkpoint, kind: str, run: ImageRun, seed: int
) -> Checkpoint:
    """Change statistics, or also layers that read changed ones, so that outputs change less.

    Args:
        before: the original network.
        after: the same with other values in some tensors, the last entry of its history.
        kind: ``batchnorm``, or ``least-squares``, which also refits the pointwise and linear
            layers that read channels of changed layers.
        run: images to calibrate with.
        seed: of the order of the images, and of what is drawn from them.

    Returns:
        ``after`` with further changes, computed at once.

    Raises:
        ArchitectureError: the network cannot be built.
        GraphError: ``least-squares``, and it cannot be followed.
        LayerError: nothing in it can be adapted so.
        DataError: images are missing, too few or do not fit.
    """
    after = _computed(before, after)
    calibration = open_calibration(before, run, seed)
    if kind == "batchnorm":
        found = _statistics(before, after, calibration)
    else:
        found = _refitted(before, after, calibration)
    stored = {
        name: from_torch(value.detach().cpu().to(torch_dtypes()[after[name].dtype]), name)
        for name, value in found.items()
        if name in after
    }
    changed = after.edited(after.history[-1], stored, WHY[kind])
    return replace(changed, history=after.history, notes=after.notes)


def _computed(before: Checkpoint, after: Checkpoint) -> Checkpoint:
    """Compute the changed tensors once, as they are read several times."""
    tensors = dict(after.tensors)
    for change in after.changes[len(before.changes) :]:
        stored = after[change.tensor]
        values = bytes(stored.raw())
        tensors[change.tensor] = StoredTensor.from_bytes(
            stored.dtype,
            stored.shape,
            lambda values=values: values,  # type: ignore[misc]
        )
    return replace(after, tensors=tensors)


def _statistics(
    before: Checkpoint, after: Checkpoint, calibration: Calibration
) -> dict[str, Tensor]:
    if not running_norms(_plain(after)):
        raise LayerError(
            f"{after.name} has no batch normalisation with running statistics; use "
            "`compensate='least-squares'`, or leave `compensate` out"
        )

    def run() -> dict[str, Tensor]:
        original, changed = (
            _plain(each).float().eval().to(calibration.device) for each in (before, after)
        )
        return match(original, changed, calibration.batches())

    return calibration.repeat(run)


def _plain(checkpoint: Checkpoint) -> nn.Module:
    network = build(checkpoint)
    make_all_plain(network)
    return network.eval()


def _refitted(before: Checkpoint, after: Checkpoint, calibration: Calibration) -> dict[str, Tensor]:
    return repeat_on_bench(lambda fitting: _refit_once(before, after, calibration, fitting))


def _refit_once(
    before: Checkpoint, after: Checkpoint, calibration: Calibration, fitting: FittingBatches
) -> dict[str, Tensor]:
    opened = open_model(before)
    network = _plain(replace(after, architecture=opened.checkpoint.architecture))
    fold_standardised(network)
    original, now = opened.network.state_dict(), network.state_dict()
    start = {name: now[name].float() for name, old in original.items()
             if old.is_floating_point() and not torch.equal(old, now[name])}  # fmt: skip
    changed = [layer for layer in opened.layers if layer.tensor in start]
    bench = open_bench(opened, calibration, streams=True, fitting=fitting)
    layers = [
        layer.name
        for layer in _readers(opened, changed)
        if layer.name in bench.survey.readers and layer.tensor in after
    ]
    if not layers and not running_norms(network):
        raise LayerError(
            f"{before.name}: no pointwise or linear layer that reads the changed ones can be "
            "refitted; leave `compensate` out"
        )
    return refit_front_to_back(
        bench, start, layers, fisher(bench, calibration.seed), calibration.seed
    )


def _readers(opened: OpenedModel, changed: list[WeightLayer]) -> list[WeightLayer]:
    """List the pointwise and linear layers that read channels which changed layers make."""
    of = opened.graph.groups.of
    made = np.zeros(len(opened.graph.groups), bool)
    for layer in changed:
        if layer.out_channels is not None:
            made[of[layer.out_channels[layer.out_channels >= 0]]] = True
    tensors = {layer.tensor for layer in changed}
    return [
        layer
        for layer in opened.layers
        if layer.in_channels is not None
        and layer.tensor not in tensors
        and all(size == 1 for size in layer.kernel)
        and layer.name not in opened.folded
        and layer.name not in opened.joined
        and made[of[layer.in_channels[layer.in_channels >= 0]]].any()
    ]
