"""Real architectures, with weights drawn at random: free channels can be cut exactly."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from cutting import cuts, difference, free_channels, graph_of, randomise  # noqa: E402

from filtersurgeon.graph.opened_model import fold_standardised  # noqa: E402
from filtersurgeon.networks.skeleton import skeleton  # noqa: E402

# Name -> how many channels are free at least, and the size of the image.
USUAL = {
    "timm:test_resnet": (672, 96),
    "timm:test_byobnet": (784, 96),
    "timm:test_efficientnet": (964, 96),
    "timm:test_convnext2": (1000, 96),
    "timm:test_nfnet": (500, 96),
    "timm:test_mambaout": (1000, 96),
    "timm:test_vit": (768, 160),
    "timm:ghostnet_050": (4000, 64),
    "timm:fasternet_t0": (6600, 64),
    "timm:starnet_s050": (1300, 64),
    "torchvision:shufflenet_v2_x0_5": (500, 64),
    "torchvision:squeezenet1_1": (1500, 64),
}

RARE = {
    "timm:mobilenetv3_small_050": (3000, 64),
    "timm:inception_next_atto": (7300, 64),
    "timm:resnest14d": (5800, 64),
    "timm:skresnet18": (2600, 64),
    "timm:hrnet_w18_small": (6300, 64),
    "timm:dla46x_c": (1500, 64),
    "timm:repghostnet_050": (3900, 64),
    "timm:selecsls42": (9800, 64),
    "timm:cs3darknet_focus_s": (2900, 64),
    "timm:legacy_seresnet18": (3000, 64),
    "timm:regnetx_002": (1000, 64),
    "timm:pvt_v2_b0": (4800, 64),
    "torchvision:mobilenet_v2": (5000, 64),
    "torchvision:googlenet": (3000, 64),
    "timm:res2next50": (4400, 64),
    "timm:dpn48b": (2300, 64),
    "timm:rexnet_100": (10900, 64),
    "timm:levit_128s": (7400, 224),
    "timm:efficientvit_m0": (5600, 224),
    "timm:shvit_s1": (9200, 224),
    "timm:nextvit_small": (22000, 224),
    "timm:halonet_h1": (5600, 256),
    "timm:xcit_nano_12_p8_224": (7200, 224),
    "timm:swin_tiny_patch4_window7_224": (17000, 224),
    "timm:tresnet_m": (14000, 64),
    "timm:nf_resnet26": (3000, 64),
    "timm:densenet121": (10000, 64),
    "torchvision:vgg11": (10900, 64),
    "torchvision:efficientnet_b0": (10000, 64),
    "torchvision:convnext_tiny": (10000, 64),
}


def _check(name: str, least: int, size: int) -> None:
    network = randomise(skeleton(name, on_meta=False).eval())
    fold_standardised(network)
    graph = graph_of(network, 3, size, size)
    assert sum(free_channels(graph)) >= least
    for left in cuts(graph, 1):
        assert graph.first_mismatch(left) is None
        assert difference(graph, left) < 1e-5


@pytest.mark.parametrize("name", USUAL)
def test_usual_architectures(name: str) -> None:
    _check(name, *USUAL[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", RARE)
def test_rarer_architectures(name: str) -> None:
    _check(name, *RARE[name])


def test_every_level_of_a_feature_pyramid_is_an_output() -> None:
    from filtersurgeon.checkpoint.vision import import_timm

    network = import_timm().create_model("test_resnet", features_only=True)
    graph = graph_of(randomise(network), 3, 64, 64)
    assert free_channels(graph)
    for left in cuts(graph):
        assert difference(graph, left) < 1e-8


def test_segmentation_returns_a_dict() -> None:
    from filtersurgeon.checkpoint.vision import import_torchvision

    make = import_torchvision().models.segmentation.lraspp_mobilenet_v3_large
    graph = graph_of(randomise(make(weights=None, weights_backbone=None)), 3, 64, 64)
    assert sum(free_channels(graph)) > 3000
    for left in cuts(graph, 1):
        assert difference(graph, left) < 1e-5
