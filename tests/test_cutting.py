"""The quick ways of a cut against the plain ones: copies, sums of squares, foreseen runs."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import filtersurgeon as fs
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.errors import LayerError
from filtersurgeon.graph.graph import channel_graph
from filtersurgeon.graph.groups import join
from filtersurgeon.graph.slim import cut_all
from filtersurgeon.graph.trial import _Trial
from filtersurgeon.ranking.energy import squared_norms

TYPES = [torch.float32, torch.bfloat16, torch.float64, torch.bool, torch.int8, torch.complex64]


def _plain(tensor: torch.Tensor, kept: dict[int, np.ndarray]) -> torch.Tensor:
    for axis, indices in kept.items():
        tensor = tensor.index_select(axis, torch.from_numpy(indices))
    return tensor


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(7,), (6, 40), (9, 6, 3, 3), (5, 4, 1, 1), (3, 4, 5, 2, 2)])
def test_what_is_left_is_what_index_select_gives(shape, dtype):
    random = np.random.default_rng(0)
    cuts = []
    for turn in range(8):
        tensor = (8 * torch.randn(shape)).to(dtype)
        if len(shape) == 4 and turn % 2:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        axes = [axis for axis in range(len(shape)) if random.random() < 0.7] or [0]
        kept = {a: np.flatnonzero(random.random(shape[a]) < 0.6) for a in axes}
        cuts.append((tensor, kept))
    for (tensor, kept), found in zip(cuts, cut_all(cuts), strict=True):
        assert found.dtype == dtype
        assert torch.equal(found, _plain(tensor, kept))


@pytest.mark.parametrize("channels", [[0, 1, 2], [1, 4], [0, 2, 3, 5]])
def test_a_linear_layer_loses_whole_channels_of_a_flattened_image(channels):
    weight = torch.randn(4, 6 * 49)
    columns = (np.array(channels)[:, None] * 49 + np.arange(49)).ravel()
    kept = {0: np.array([1, 3]), 1: columns}
    (found,) = cut_all([(weight, kept)])
    assert torch.equal(found, _plain(weight, kept))


@pytest.mark.parametrize("shape", [(2000, 700), (300, 4608), (400, 300)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e25])
def test_filters_stand_in_the_order_of_their_exact_lengths(shape, scale):
    filters = np.random.default_rng(0).standard_normal(shape)
    filters[1] = filters[0] * (1 + 1e-7)
    filters[2] = filters[0][::-1]
    filters = (scale * filters).astype(np.float32)
    filters[3] = 0
    exact = np.square(filters.astype(np.float64)).sum(1)
    found = squared_norms(filters)
    np.testing.assert_allclose(found, exact, rtol=3e-7)
    distinct = np.diff(np.sort(exact)) > 1e-12 * np.sort(exact)[1:]
    order = np.argsort(found, kind="stable")
    assert (np.diff(exact[order])[distinct] > 0).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 300, 699])
def test_lengths_show_weights_that_are_no_numbers(wrong, place):
    filters = np.ones((200, 700), np.float32)
    filters[5, place] = wrong
    assert (~np.isfinite(squared_norms(filters))).nonzero()[0].tolist() == [5]


@pytest.mark.parametrize("method", ["l1", "l2", "distance-sum"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_no_filters_are_ranked_by_weights_that_are_no_numbers(method, wrong):
    source = fs.untrained("timm:resnet10t")
    weight = source["layer1.0.conv1.weight"].torch()
    weight[3, 2, 1, 1] = wrong
    tensors = {**source.tensors, "layer1.0.conv1.weight": from_torch(weight, "weight")}
    with pytest.raises(LayerError, match="conv1: 1 of its"):
        fs.prune(replace(source, tensors=tensors), sparsity=0.3, per_layer=True, method=method)


@pytest.mark.parametrize("architecture", ["timm:resnet10t", "torchvision:mnasnet0_5"])
def test_a_run_that_is_foreseen_goes_wrong_where_one_by_rules_does(architecture, monkeypatch):
    """Without one of its ties, a network is cut amiss; both ways must part at the same operator."""
    network = fs.build(fs.untrained(architecture)).eval()
    graph = channel_graph(network, torch.empty(1, 3, 64, 64, device="meta"))
    ties = graph.trace.constraints.ties
    assert len(ties) > 50
    random = np.random.default_rng(0)
    cuts = []
    for missing in [None, *range(0, len(ties), 5)]:
        left = [tie for number, tie in enumerate(ties) if number != missing]
        groups = join(replace(graph.trace.constraints, ties=left), graph.trace.slots)
        kept = groups.pinned | (random.random(len(groups)) < 0.6)
        cuts.append((replace(graph, groups=groups), kept))
    foreseen = [wrong.first_mismatch(kept) for wrong, kept in cuts]
    monkeypatch.setattr(_Trial, "foresee", lambda *_: None)
    assert foreseen == [wrong.first_mismatch(kept) for wrong, kept in cuts]
    assert foreseen[0] is None
    assert sum(where is not None for where in foreseen) > 5
