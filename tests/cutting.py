"""Cutting networks by hand, independently of how the package does it: by zeros, and by slices."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from filtersurgeon.graph.graph import ChannelGraph, channel_graph
from filtersurgeon.graph.groups import Mask
from filtersurgeon.graph.ops.reduction import scale_of
from filtersurgeon.networks.resizing import mirror


class Between(nn.Module):
    """Two convolutions with eight channels, and something between them."""

    def __init__(self, middle: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(channels, 2, 1)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


def graph_of(network: nn.Module, *size: int) -> ChannelGraph:
    """Follow the channels of a network for inputs of a size (channels, height, width)."""
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    return channel_graph(network.eval(), torch.empty((1, *size), dtype=dtype, device="meta"))


def free_channels(graph: ChannelGraph) -> list[int]:
    """Count the channels of every bundle that may go, largest first."""
    return sorted((len(b.groups) for b in graph.groups.bundles if not b.pinned), reverse=True)


def cuts(graph: ChannelGraph, count: int = 2, seed: int = 0) -> Iterator[Mask]:
    """Draw cuts: of every bundle that may go, any number of groups but all."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        left = np.ones(len(graph.groups), bool)
        for bundle in graph.groups.bundles:
            if not bundle.pinned:
                size = len(bundle.groups)
                left[rng.permutation(bundle.groups)[: rng.integers(0, size)]] = False
        yield left


def randomise(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give a network values with which nothing is zero or one by chance, in double precision."""
    draw = torch.Generator().manual_seed(seed)
    network.double()
    with torch.no_grad():
        for tensor in network.parameters():
            values = torch.randn(tensor.shape, generator=draw, dtype=torch.float64)
            tensor.copy_(values / max(tensor[0].numel(), 1) ** 0.5 if tensor.ndim > 1 else values)
        for name, tensor in network.named_buffers():
            values = torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
            if name.endswith("running_mean"):
                tensor.copy_(values)
            elif name.endswith("running_var"):
                tensor.copy_(values + 0.5)
    return network


def masked(graph: ChannelGraph, left: Mask) -> nn.Module:
    """Copy a network with zeros in every place of the removed channels."""
    network = copy.deepcopy(graph.network)
    own = _tensors(network)
    alive = left[graph.groups.of]
    for name, labels in graph.trace.slots.items():
        for axis, ids in enumerate(labels):
            if ids is not None and own[name].is_floating_point():
                gone = torch.from_numpy(np.flatnonzero((ids >= 0) & ~alive[ids]))
                own[name].data.index_fill_(axis, gone, 0)
    return network


def narrow(graph: ChannelGraph, left: Mask) -> nn.Module:
    """Copy a network without the removed channels."""
    network = copy.deepcopy(graph.network)
    alive = left[graph.groups.of]
    sliced = {
        id(tensor): _sliced(tensor, graph.trace.slots.get(name, ()), alive)
        for name, tensor in _tensors(network).items()
    }
    for name, axis in graph.trace.positions.items():
        numbers = sliced[id(_tensors(network)[name])]
        kept = [place for place, label in enumerate(axis) if label < 0 or alive[label]]
        numbers.copy_(torch.tensor([kept.index(n % len(axis)) for n in numbers.tolist()]))
    settings = graph.settings(left)
    for path, module in network.named_modules():
        before = {}
        for held in (module._parameters, module._buffers):
            for name, tensor in list(held.items()):
                if tensor is None:
                    continue
                if sliced[id(tensor)].shape != tensor.shape:
                    before[name] = tuple(tensor.shape)
                held[name] = sliced[id(tensor)]
        vars(module).update(settings.get(path, {}))
        if before:
            mirror(module, before, settings.get(path, {}))
    for record in graph.trace.records:
        for ids in record.averaged:
            module = network.get_submodule(record.module)
            scale = getattr(module, scale_of(module))
            scale.data.mul_(len(ids) / alive[ids].sum())
    return network


def _sliced(tensor: Tensor, labels: Sequence[Any], alive: Mask) -> Tensor:
    values = tensor.detach()
    for axis, ids in enumerate(labels):
        if ids is not None:
            kept = np.flatnonzero((ids < 0) | alive[ids])
            values = values.index_select(axis, torch.from_numpy(kept))
    return nn.Parameter(values, False) if isinstance(tensor, nn.Parameter) else values


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_buffers()), **dict(network.named_parameters())}


def difference(graph: ChannelGraph, left: Mask) -> float:
    """Compare masked and narrow network on random images: largest relative difference."""
    draw = torch.Generator().manual_seed(1)
    dtype = next(p.dtype for p in graph.network.parameters())
    images = torch.randn((2, *graph.image.shape[1:]), generator=draw, dtype=dtype)
    with torch.no_grad():
        expected = list(leaves(masked(graph, left)(images)))
        found = list(leaves(narrow(graph, left)(images)))
    worst = 0.0
    for one, other in zip(expected, found, strict=True):
        assert one.shape == other.shape
        assert one.isfinite().all()
        worst = max(worst, float((one - other).abs().max() / one.abs().max().clamp(min=1e-30)))
    return worst


def leaves(outputs: Any) -> Iterator[Tensor]:
    """Give every tensor in lists and dicts."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif outputs is not None:
        for item in outputs.values() if isinstance(outputs, dict) else outputs:
            yield from leaves(item)


def check(network: nn.Module, *size: int, count: int = 2) -> ChannelGraph:
    """Assert that random cuts of a network change nothing but the removed channels."""
    graph = graph_of(randomise(network), *size)
    for left in cuts(graph, count):
        assert graph.first_mismatch(left) is None
        assert difference(graph, left) < 1e-8
    return graph
