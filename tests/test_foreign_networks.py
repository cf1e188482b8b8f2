"""Networks of other packages, pruned as modules in memory and compared with masked originals."""

import pytest
import torch
from torch import nn

from benchmarks.foreign import SPARSITY, difference, ours, peer, randomise
from benchmarks.foreign_networks import PACKAGES
from filtersurgeon.checkpoint.vision import import_timm

QUICK = {
    "torchvision": ["RetinaNet (mobilenet_v3_small)", "lraspp_mobilenet_v3_large"],
    "segmentation_models_pytorch": ["UnetPlusPlus (mobilenet_v2)"],
    "transformers": [
        "ResNetForImageClassification", "ConvNextV2ForImageClassification",
        "RegNetForImageClassification", "SegformerForSemanticSegmentation",
        "MobileNetV2ForImageClassification", "LevitForImageClassification",
    ],
    "monai": ["UNet 3-D", "UNet 1-D", "AutoEncoder 3-D", "DynUNet 3-D"],
}  # fmt: skip


def make(package, name):
    """Make a network of the benchmark, with weights that do not repeat."""
    import_timm()
    pytest.importorskip(package)
    torch.manual_seed(0)
    network, inputs = dict(PACKAGES[package]())[name]()
    randomise(network.eval())
    return network, inputs


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package in QUICK for name in QUICK[package]]
)
def test_a_network_of_another_package_is_pruned(package, name):
    outcome = ours(*make(package, name))
    assert not outcome.refused
    assert outcome.left < 0.9
    assert outcome.difference < 1e-6


def small():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 10, 3),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 10, 1),
        nn.Conv2d(10, 2, 1),
    ).eval()
    randomise(network)
    return network, torch.randn(1, 3, 8, 8)


def test_the_benchmark_finds_a_wrong_cut():
    network, image = small()
    outcome = ours(network, image)
    assert outcome.difference < 1e-12
    kept = round(10 * (1 - SPARSITY))
    pruned = nn.Sequential(
        nn.Conv2d(3, kept, 3), nn.BatchNorm2d(kept), nn.ReLU(), nn.Conv2d(kept, 10, 1), network[4]
    ).eval()
    with torch.no_grad():
        pruned[0].weight.copy_(network[0].weight[:kept])
        pruned[0].bias.copy_(network[0].bias[:kept])
        for key, tensor in pruned[1].state_dict().items():
            tensor.copy_(network[1].state_dict()[key][:kept] if tensor.ndim else tensor)
        pruned[3].weight.copy_(network[3].weight[:, :kept])
        pruned[3].bias.copy_(network[3].bias)
        assert difference(network, pruned, image) < 1e-12
        pruned[3].weight.copy_(network[3].weight[:, 10 - kept :])
    assert difference(network, pruned, image) > 1e-3


def test_the_benchmark_judges_the_peer_alike():
    pytest.importorskip("torch_pruning")
    outcome = peer(*small())
    assert outcome.left < 0.8
    assert outcome.difference < 1e-12
