"""Parameters and work counted from a trace, beside what torch counts in a real run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch import nn

from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.graph import channel_graph
from filtersurgeon.learn.measure import count_macs
from filtersurgeon.networks.skeleton import skeleton


class _Recurrent(nn.Module):
    """A convolution whose columns are read by a recurrent layer of two directions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.memory = nn.LSTM(8, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        states, _ = self.memory(self.stem(image).mean(2).transpose(1, 2))
        return self.head(states.mean(1))


class _Attentive(nn.Module):
    """A convolution whose positions attend to each other, with the layer of PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        places = self.stem(image).flatten(2).transpose(1, 2)
        return self.head(self.attention(places, places, places)[0].mean(1))


@pytest.mark.parametrize(
    ("network", "side"),
    [
        (_Recurrent, 12),
        (_Attentive, 6),
        (partial(skeleton, "timm:mobilevit_xxs", on_meta=False), 256),
        (partial(skeleton, "timm:convnextv2_atto", on_meta=False), 64),
    ],
    ids=["recurrent", "heads", "attention", "convolutions"],
)
def test_work_is_what_torch_counts_while_it_runs(
    network: Callable[[], nn.Module], side: int
) -> None:
    model = network().eval()
    graph = channel_graph(model, torch.empty(1, 3, side, side, device="meta"))
    cost = CostModel(graph).cost(np.ones(len(graph.groups), bool))
    assert cost.macs == count_macs(model, (3, side, side))
    assert cost.parameters == sum(parameter.numel() for parameter in model.parameters())
