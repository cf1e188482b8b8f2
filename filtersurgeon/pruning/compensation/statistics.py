"""Running statistics of batch normalisation, set on images."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filtersurgeon.errors import DataError

# Variances below this share of a channel's second moment are rounding of a constant.
_NOTHING = 1e-10
_TINY = torch.finfo(torch.float64).tiny


class Statistics(NamedTuple):
    """Mean and variance of channels, ``(channels,)`` each, in float64."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Statistics:
        """Take them of values, ``(n, channels, ...)``."""
        rows = values.transpose(0, 1).flatten(1)
        variance, mean = torch.var_mean(rows, dim=1, correction=0)
        return cls(mean.double(), variance.double())


class Sums:
    """Statistics over several batches."""

    def __init__(self) -> None:
        self._count, self._first, self._second = 0, torch.zeros(()), torch.zeros(())

    def add(self, batch: Statistics, count: int) -> None:
        """Add the statistics of a batch of so many values in each channel."""
        self._count += count
        self._first = self._first.to(batch.mean) + count * batch.mean
        self._second = self._second.to(batch.mean) + count * (batch.variance + batch.mean.square())

    def total(self) -> Statistics:
        """Give the statistics of all of them."""
        mean = self._first / self._count
        return Statistics(mean, (self._second / self._count - mean.square()).clamp(min=0.0))


def match_statistics(
    running: Statistics, before: Statistics, now: Statistics, eps: float
) -> Statistics:
    """Give the running statistics that make a normalisation's outputs what they were.

    With them its outputs have the mean and the variance on the images that they had in the
    original network. If nothing has changed, these are the original's running statistics, which
    come from all of its training images.

    Args:
        running: the running statistics of the original network.
        before: what it reads of the images in the original network.
        now: what it reads of them in the changed one.
        eps: of the normalisation.

    Returns:
        New running statistics. A channel that is constant on the images keeps its variance.
    """
    scale = running.variance + eps
    varies = [x.variance > _NOTHING * (x.variance + x.mean.square()) for x in (before, now)]
    ratio = torch.where(varies[0] & varies[1], now.variance / before.variance.clamp(min=_TINY), 1.0)
    mean = now.mean - (before.mean - running.mean) * ratio.sqrt()
    return Statistics(mean, (scale * ratio - eps).clamp(min=0.0))


def match(original: nn.Module, changed: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Set running statistics so that every normalisation makes what it made, on average.

    The images run through both networks. In the changed one, the statistics of every
    normalisation are matched on each batch before the next layer reads its outputs, so that each
    is matched on what the changed network gives it; the sums over all batches are matched at the
    end. Means and variances are those of :func:`match_statistics`.

    Args:
        original: in evaluation mode.
        changed: the same modules with other weights, in evaluation mode; its statistics change.
        batches: images, ``(n, channels, height, width)``. A batch of a single image has no
            statistics where a layer has a single position, and is left out.

    Returns:
        ``running_mean`` and ``running_var`` of every batch normalisation that has them and is
        called, by name.

    Raises:
        DataError: there is no batch of at least two images.
    """
    own, others = running_norms(original), running_norms(changed)
    made: dict[str, deque[Statistics]] = defaultdict(deque)
    before: dict[str, Sums] = defaultdict(Sums)
    now: dict[str, Sums] = defaultdict(Sums)

    def look(name: str, values: Tensor) -> None:
        found = Statistics.of(values)
        made[name].append(found)
        before[name].add(found, values.numel() // values.shape[1])

    def adapt(name: str, values: Tensor) -> None:
        found, norm = Statistics.of(values), own[name]
        now[name].add(found, values.numel() // values.shape[1])
        wanted = made[name].popleft()
        _put(others[name], match_statistics(_running(norm), wanted, found, norm.eps))

    seen = False
    with torch.no_grad(), _watched(own, look), _watched(others, adapt):
        for batch in batches:
            if len(batch) < 2:
                continue
            seen = True
            original(batch)
            changed(batch)
    if others and not seen:
        raise DataError("batch-norm statistics need at least two images")
    for name, sums in now.items():
        norm, wanted = own[name], before[name].total()
        _put(others[name], match_statistics(_running(norm), wanted, sums.total(), norm.eps))
    return {
        f"{name}.{statistic}": others[name].get_buffer(statistic)
        for name in now
        for statistic in ("running_mean", "running_var")
    }


def _running(norm: _BatchNorm) -> Statistics:
    return Statistics(
        norm.get_buffer("running_mean").double(), norm.get_buffer("running_var").double()
    )


def _put(norm: _BatchNorm, found: Statistics) -> None:
    norm.get_buffer("running_mean").copy_(found.mean)
    norm.get_buffer("running_var").copy_(found.variance)


@contextmanager
def _watched(norms: dict[str, _BatchNorm], look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Show what normalisations read, before they work."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _, inputs: look(name, inputs[0])

    handles = [norm.register_forward_pre_hook(hook(name)) for name, norm in norms.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


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
