"""ChannelPrune on two networks of torchvision, against a version written out for each by hand.

The rule of Gaudio et al., *ExplainFix*, section 3.3: zero the least salient spatial kernels of the
network; a channel that a spatial convolution makes or reads goes once all its kernels there are
zero, together with everything that belongs to it in neighbouring layers. Here, which layers are
neighbours is not found out but known from the networks' papers, and only parameters are counted.
"""

import numpy as np
import pytest
import torch
from learning import stripes

from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.graph import channel_graph
from filtersurgeon.graph.weights import count_kept, weight_layers
from filtersurgeon.networks.skeleton import make, skeleton
from filtersurgeon.pruning.plan import plan_channelprune
from filtersurgeon.ranking.saliency import SaliencySettings, saliency

SHARES = (0.8, 0.9, 0.99, 0.999)
RESNET50 = ((64, 256, 3), (128, 512, 4), (256, 1024, 6), (512, 2048, 3))
DENSENET121 = (6, 12, 24, 16)


def alive_kernels(scores: dict, share: float) -> dict:
    """Tell which kernels are not among the lowest share of all."""
    everything = np.concatenate([values.ravel() for values in scores.values()])
    count = int(np.floor(share * everything.size + 1e-6))
    ranks = np.empty(everything.size, int)
    ranks[np.argsort(everything, kind="stable")] = np.arange(everything.size)
    alive, start = {}, 0
    for name, values in scores.items():
        alive[name] = ranks[start : start + values.size].reshape(values.shape) >= count
        start += values.size
    return alive


def rows(alive: np.ndarray) -> int:
    """Count the filters that have a kernel left; a layer keeps one at least."""
    return max(1, int(alive.any(1).sum()))


def columns(alive: np.ndarray) -> int:
    return max(1, int(alive.any(0).sum()))


def resnet50(alive: dict) -> int:
    """Count the parameters left of a ResNet-50: streams are made by 1x1 layers, and stay."""
    width = rows(alive["conv1"])
    total = 3 * 49 * width + 2 * width
    for stage, (_, out, blocks) in enumerate(RESNET50, 1):
        for block in range(blocks):
            kernels = alive[f"layer{stage}.{block}.conv2"]
            inner, outer = columns(kernels), rows(kernels)
            total += width * inner + 2 * inner + 9 * inner * outer + 2 * outer + outer * out
            total += 2 * out + (width * out + 2 * out if block == 0 else 0)
            width = out
    return total + width * 1000 + 1000


def densenet121(alive: dict) -> int:
    """Count the parameters left of a DenseNet-121: every layer reads all before it in its block."""
    width = rows(alive["features.conv0"])
    total = 3 * 49 * width + 2 * width
    whole = 64
    for block, layers in enumerate(DENSENET121, 1):
        for layer in range(1, layers + 1):
            kernels = alive[f"features.denseblock{block}.denselayer{layer}.conv2"]
            inner, growth = columns(kernels), rows(kernels)
            total += 2 * width + width * inner + 2 * inner + 9 * inner * growth
            width, whole = width + growth, whole + 32
        total += 2 * width  # of the transition, or of the last normalisation
        if block < len(DENSENET121):
            whole //= 2  # a transition's outputs are made and read by 1x1 layers, and stay
            total += width * whole
            width = whole
    return total + width * 1000 + 1000


REFERENCES = {"resnet50": resnet50, "densenet121": densenet121}


@pytest.fixture(scope="module", params=REFERENCES)
def network(request):
    """Name, channel graph and layers of a network without data."""
    model = make(f"torchvision:{request.param}").eval()
    graph = channel_graph(model, torch.empty(1, 3, 224, 224, device="meta"))
    return request.param, graph, weight_layers(graph)


def uneven_scores(layers, seed: int) -> dict:
    """Draw scores whose filters, inputs and layers differ by orders of magnitude."""
    rng = np.random.default_rng(seed)
    scores = {}
    for layer in layers:
        if layer.is_spatial:
            out, depth = (
                len(layer.out_channels),
                3 if layer.in_channels is None else len(layer.in_channels),
            )
            size = rng.normal(0, 1) + rng.normal(0, 2, (out, 1)) + rng.normal(0, 2, (1, depth))
            scores[layer.name] = np.exp(size + rng.normal(0, 1, (out, depth)))
    return scores


def compare(name, graph, layers, scores, share) -> float:
    """Compare the parameters pruned, and check that nothing is empty; gives the share."""
    plan = plan_channelprune(graph.groups, layers, scores, share)
    model = CostModel(graph)
    whole, left = model.cost(plan.keep | True).parameters, model.cost(plan.keep).parameters
    everything = {key: np.ones(values.shape, bool) for key, values in scores.items()}
    assert REFERENCES[name](everything) == whole
    expected = REFERENCES[name](alive_kernels(scores, share))
    assert left / whole == pytest.approx(expected / whole, abs=0.02)
    for layer in layers:
        for axis in (layer.out_channels, layer.in_channels):
            if axis is not None:
                assert count_kept(axis, len(axis), plan.keep, graph.groups.of) >= 1
    return 1 - left / whole


@pytest.mark.parametrize("seed", [0, 1])
def test_as_much_goes_as_by_the_papers_rule(network, seed):
    name, graph, layers = network
    scores = uneven_scores(layers, seed)
    pruned = [compare(name, graph, layers, scores, share) for share in SHARES]
    assert pruned == sorted(pruned)
    assert 0.05 < pruned[0] < 0.7 < pruned[-1] < 0.99


@pytest.mark.slow
def test_as_much_goes_by_saliency(network):
    """Eq. 4 on networks as they are initialised, and on images of stripes."""
    name, graph, layers = network
    torch.manual_seed(0)
    model = skeleton(f"torchvision:{name}", on_meta=False).eval()
    weights = {layer.name: layer.tensor for layer in layers if layer.is_spatial}
    scores = dict.fromkeys(weights, 0.0)
    for _, sums in saliency(model, stripes(8, size=64), weights, SaliencySettings(4)):
        scores = {key: scores[key] + sums[key] for key in weights}
    pruned = [compare(name, graph, layers, scores, share) for share in SHARES]
    assert pruned == sorted(pruned)
    assert pruned[-1] > 0.5
