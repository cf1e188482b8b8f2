"""Networks whose channels other tools masked: scales of zero behind convolutions, cut exactly."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import filtersurgeon as fs


def network(norm: nn.Module) -> nn.Module:
    """Give a network whose second normalisation has random statistics and scales."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), norm, nn.SiLU(), nn.Conv2d(6, 4, 3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias):
            tensor.uniform_(0.5, 1.5)
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_channels_that_network_slimming_masks_are_cut_exactly(shift):
    model = network(nn.BatchNorm2d(6))
    with torch.no_grad():
        model[1].weight[[0, 4]] = 0
        model[1].bias[[0, 4]] = shift
    found: list[fs.PruneReport] = []
    pruned = fs.prune(model, (3, 12, 12), sparsity=0.0, mode="exact", observe=found.append)
    assert pruned[0].out_channels == 4
    assert pruned[3].in_channels == 4
    images = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), rtol=1e-5, atol=1e-5)
    assert found[0].unchanged


def test_scales_of_zero_in_group_normalisation_are_cut_by_whole_groups():
    model = network(nn.GroupNorm(3, 6))
    with torch.no_grad():
        model[1].weight[:3] = 0
        model[1].bias[:3] = torch.tensor([0.2, -0.1, 0.3])
    pruned = fs.prune(model, (3, 12, 12), sparsity=0.0, mode="exact")
    # The second group has one channel that counts.
    assert pruned[0].out_channels == 4
    images = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), model(images), rtol=1e-5, atol=1e-5)


class Over(nn.Module):
    """Normalises over channels, some of which have a scale of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 6)
        self.norm = nn.LayerNorm(6)
        self.last = nn.Linear(6, 4, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x.flatten(1)[:, :8])))


def test_scales_of_zero_in_layer_normalisation_are_constants():
    from filtersurgeon.graph.constants import constant_inputs

    model = Over().double().eval()
    with torch.no_grad():
        model.norm.weight[2], model.norm.bias[2] = 0, 0.25
    found = constant_inputs(model, torch.empty(1, 3, 4, 4), {})["last"].values
    assert found[2] == 0.25
    assert found.isnan().sum() == 5
