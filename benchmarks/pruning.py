"""CPU time to prune half of every layer by magnitude, against Torch-Pruning, and to trace alone.

Both start with a network in memory and end with the pruned tensors. Torch-Pruning changes the
network in place; here the cut is also checked, by a second run on the pruned shapes. Each figure is
the best of three.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from benchmarks.measure import Row
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.graph.graph import channel_graph
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.slim import slim
from filtersurgeon.graph.tracer import trace
from filtersurgeon.networks.skeleton import skeleton
from filtersurgeon.pruning.plan import mean_ranks, plan_per_layer
from filtersurgeon.pruning.scoring import rank_layers
from filtersurgeon.ranking.method import Method

NETWORKS = {
    "torchvision:resnet50": 0.1,
    "torchvision:densenet121": 0.02,
    "torchvision:vgg16": 0.02,
}


def _cpu(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _ours(network: torch.nn.Module) -> Checkpoint:
    state = {name: from_torch(tensor, name) for name, tensor in network.state_dict().items()}
    image = torch.empty(1, 3, 224, 224, device="meta")
    opened = OpenedModel(Checkpoint(state), network, channel_graph(network, image), frozenset())
    ranks = rank_layers(opened, opened.free_layers, Method("l2"))
    groups = opened.graph.groups
    plan = plan_per_layer(groups, opened.layers, mean_ranks(groups, opened.makers, ranks), 0.5)
    return slim(opened, plan.keep, HistoryEntry("prune"))


def _torch_pruning(network: torch.nn.Module) -> None:
    import torch_pruning

    heads = [m for m in network.modules() if isinstance(m, torch.nn.Linear)][-1:]
    torch_pruning.pruner.MagnitudePruner(
        network,
        torch.randn(1, 3, 224, 224),
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=heads,
    ).step()


def _best(call: Callable[[], object]) -> float:
    call()
    return min(_cpu(call) for _ in range(3))


def _compare(architecture: str, target: float) -> Iterator[Row]:
    network = skeleton(architecture, on_meta=False).eval()
    shape = (1, 3, 224, 224)
    ours = _best(lambda: _ours(network))
    traced = _best(lambda: trace(network, torch.empty(shape, device="meta")))
    photograph = torch.randn(shape)
    with torch.no_grad():
        passed = _best(lambda: network(photograph))
    # It changes the network, so that each round needs one of its own.
    fresh = [skeleton(architecture, on_meta=False).eval() for _ in range(3)]
    peer = min(_cpu(partial(_torch_pruning, network)) for network in fresh)
    name = architecture.partition(":")[2]
    yield Row(f"prune {name} : Torch-Pruning", 1e3 * ours, 1e3 * peer, "CPU ms", target)
    yield Row(f"trace {name} : a forward pass", 1e3 * traced, 1e3 * passed, "CPU ms", 1.0)


def run() -> Iterator[Row]:
    for architecture, target in NETWORKS.items():
        yield from _compare(architecture, target)
