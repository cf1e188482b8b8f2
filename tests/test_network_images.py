"""Images made from the statistics that a network's batch norms store."""

import pytest
import torch
from learning import assert_same, small_cfg, stripes, tensors_of, tiny_net
from torch import nn

from filtersurgeon.data.images import batches, make_loader, prepared_images
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.errors import ArchitectureError, OptionError
from filtersurgeon.learn.distillation import recorded
from filtersurgeon.learn.network_images import batch_norms, images_of_network, statistics_error
from filtersurgeon.learn.networks import Network


def _network(model):
    return Network("tiny", model.eval(), read_preprocessing(small_cfg()), 2)


@pytest.fixture
def network():
    """A network whose batch norm stores the statistics of striped images."""
    model = tiny_net()
    model.norm.momentum = None
    images = torch.stack([stripes(64)[k][0] for k in range(64)])
    with torch.no_grad():
        model.train()(images)
    return _network(model)


def _error(network, images):
    with torch.no_grad(), recorded(network.model, ["stem"]) as outputs:
        network.model(images)
    return float(statistics_error(network.model.norm, outputs["stem"][0]))


def test_the_error_is_that_of_mean_and_deviation_in_stored_deviations():
    norm = nn.BatchNorm2d(2, eps=0.0)
    norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 9.0]))
    inputs = torch.randn((8, 2, 3, 3), generator=torch.Generator().manual_seed(0))
    flat = inputs.transpose(0, 1).reshape(2, -1)
    shape = (1, 2, 1, 1)
    inputs = (inputs - flat.mean(1).view(shape)) / flat.std(1, correction=0).view(shape)
    stored = inputs * norm.running_var.sqrt().view(shape) + norm.running_mean.view(shape)
    assert float(statistics_error(norm, stored)) == pytest.approx(0, abs=1e-10)
    # One stored deviation off in the mean, half of it in the deviation, in one channel of two.
    off = stored.clone()
    off[:, 0] = (stored[:, 0] - 1) * 1.5 + 1 + 2
    assert float(statistics_error(norm, off)) == pytest.approx((1 + 0.25) / 2, rel=1e-5)


def test_statistics_match_better_and_pixels_stay_in_range(network):
    before = tensors_of(network.model)
    seen = []
    start = images_of_network(network, 16, steps=0)
    made = images_of_network(network, 16, steps=40, progress=lambda *done: seen.append(done))
    assert made.shape == (16, 3, 8, 8)
    assert _error(network, made) < 0.1 * _error(network, start)
    pixels = made * 0.25 + 0.5
    assert float(pixels.min()) >= -1e-6
    assert float(pixels.max()) <= 1 + 1e-6
    assert seen[-1] == (40, 40)
    assert_same(before, tensors_of(network.model))
    assert all(parameter.requires_grad for parameter in network.model.parameters())
    assert not network.model.norm._forward_pre_hooks


def test_the_seed_decides(network):
    first, again, other = (images_of_network(network, 5, steps=3, seed=s) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    assert images_of_network(network, 5, steps=1, batch_size=2, size=(3, 12, 10)).shape == (
        5, 3, 12, 10,
    )  # fmt: skip
    assert images_of_network(network, 1, steps=1).shape == (1, 3, 8, 8)


def test_a_network_without_batch_norms_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True))
    assert batch_norms(model) == []
    with pytest.raises(ArchitectureError, match="tiny has no batch norm") as refusal:
        images_of_network(_network(tiny_net(norm=False)), 4)
    assert "\n" not in str(refusal.value)


def test_senseless_counts_are_refused(network):
    for words in ({"n": 0}, {"n": 4, "steps": -1}, {"n": 4, "batch_size": 1}):
        with pytest.raises(OptionError, match="at least 1 image"):
            images_of_network(network, **words)


def test_made_images_are_a_data_set(network):
    made = images_of_network(network, 6, steps=1)
    data = prepared_images(made, "made")
    read = torch.cat([images for images, _ in batches(make_loader(data, 4))])
    assert torch.equal(read, made)
