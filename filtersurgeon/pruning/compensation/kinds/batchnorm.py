"""Re-estimate the running statistics of batch normalisation on calibration images (--data)."""

from __future__ import annotations

from torch import Tensor

from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.slim import zero_removed
from filtersurgeon.pruning.compensation.calibration import Calibration
from filtersurgeon.pruning.compensation.readers import Tensors, as_stored
from filtersurgeon.pruning.compensation.statistics import reestimate


def batchnorm(
    opened: OpenedModel, keep: Mask, changed: Tensors, images: Calibration
) -> dict[str, Tensor]:
    """Set running means and variances to those of the network without the removed channels.

    Nothing else changes. :func:`reestimate` does it.
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

    def run() -> dict[str, Tensor]:
        network = images.replica(opened, zero_removed(opened, keep, changed))
        return reestimate(network, images.batches())

    found = dict(changed)
    for name, statistic in images.repeat(run).items():
        found[name] = as_stored(statistic, opened.network.get_buffer(name))
    return found
