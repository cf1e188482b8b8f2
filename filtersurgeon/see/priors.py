"""Priors on generated images: stored feature statistics, total variation, saturation.

Sources: Mahendran and Vedaldi, 2016 (total variation, bounded pixels); Yin et al., *Dreaming to
Distill: Data-free Knowledge Transfer via DeepInversion*, 2020 (statistics of batch normalisation).
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_FALL = 0.4
"""Exponent with which the weight of a layer's statistics falls from 1, first, to 0, last."""
_SLACK = 0.3
"""Distance of a layer that is not penalised: that of photographs is 0.29 in the mean of the layers
of EfficientNet-Lite0."""
_SOFT = 1e-3
_INSIDE = 0.42
"""Values may be so far from the middle of their range before they are penalised."""


class StatisticsPrior:
    """Measures how far feature maps are from what batch normalisation has stored of its data.

    Each layer adds the mean over channels of the squared differences of the mean, and of the
    deviation, both relative to the stored deviation, as far as it exceeds that of photographs: an
    image that meets the average in every layer shows something of all classes. The weight of a
    layer falls with its depth, because the features of one class differ from the average the more,
    the deeper they are. Used as a context around runs of the network; :meth:`total` gives the sum
    of the last run.

    Args:
        model: the network; without batch normalisation of images the prior is zero.
    """

    def __init__(self, model: nn.Module) -> None:
        from torch import nn

        self.layers = [
            module
            for module in model.modules()
            if isinstance(module, nn.BatchNorm2d) and module.running_var is not None
        ]
        self.found: list[Tensor] = []
        self.handles: list[Any] = []

    def __enter__(self) -> StatisticsPrior:
        for place, layer in enumerate(self.layers):
            weight = (1 - place / len(self.layers)) ** _FALL
            self.handles.append(layer.register_forward_pre_hook(self._hook(weight)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _hook(self, weight: float) -> Any:
        def measure(layer: Any, inputs: Any) -> None:
            if not self.found or len(inputs[0]) == len(self.found[0]):
                excess = (statistics_distance(layer, inputs[0]) - _SLACK).clamp(min=0)
                self.found.append(weight * excess)

        return measure

    def forget(self) -> None:
        """Begin a new run."""
        self.found.clear()

    def total(self, images: Tensor) -> Tensor:
        """Give the prior ``(n,)`` of the ``n`` images of the last run."""
        return sum(self.found, images.new_zeros(len(images)))


def statistics_distance(layer: nn.BatchNorm2d, maps: Tensor) -> Tensor:
    """Compare each image's maps with the statistics that a layer has stored.

    Args:
        layer: stores a mean and a variance of each channel.
        maps: ``(n, channels, height, width)``.

    Returns:
        ``(n,)``: the mean over channels of ``((m - M)^2 + (s - S)^2) / S^2``, with the mean and
        deviation ``m, s`` of a map and ``M, S`` as stored.
    """
    mean: Any = layer.running_mean
    variance: Any = layer.running_var
    own = maps.var((2, 3), unbiased=False).add(1e-8).sqrt()
    scale = (variance + _SOFT).sqrt()
    return (
        ((maps.mean((2, 3)) - mean) / scale) ** 2 + ((own - variance.sqrt()) / scale) ** 2
    ).mean(1)


def total_variation(images: Tensor) -> Tensor:
    """Give the mean squared difference of neighbouring pixels, ``(n,)``, down plus across."""
    down = (images[..., 1:, :] - images[..., :-1, :]).pow(2).mean((1, 2, 3))
    across = (images[..., :, 1:] - images[..., :, :-1]).pow(2).mean((1, 2, 3))
    return down + across


def saturation(images: Tensor) -> Tensor:
    """Give the mean squared excess ``(n,)`` of values over the inner range, 0.08 to 0.92."""
    return ((images - 0.5).abs() - _INSIDE).clamp(min=0).pow(2).mean((1, 2, 3))
