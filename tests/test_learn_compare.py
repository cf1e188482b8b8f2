"""Two networks side by side, against figures worked out by hand."""

import copy
import json

import pytest
import torch
from learning import stripes, tiny_net
from torch import nn

from filtersurgeon.errors import DataError, OutputError
from filtersurgeon.learn.compare import (
    ComparisonSettings,
    RandomImages,
    Subject,
    compare,
    cost_ratios,
    plot_comparison,
)
from filtersurgeon.learn.latency import measure_latency
from filtersurgeon.learn.measure import (
    Difference,
    count_macs,
    count_parameters,
    output_difference,
)

SETTINGS = ComparisonSettings(batch_size=4, latency_runs=0)
RANDOM = RandomImages(10, (3, 8, 8))


class Scaled(nn.Module):
    def __init__(self, network, factor):
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x):
        return self.factor * self.network(x)


def test_a_network_does_not_differ_from_itself():
    model = tiny_net()
    found = compare((Subject("a", model), Subject("b", copy.deepcopy(model))), RANDOM, SETTINGS)
    assert found.difference == Difference(10, 0.0, 0.0, 0.0, 10)
    assert found.failures(max_diff=0.0) == []


def test_outputs_larger_by_a_quarter_differ_by_a_quarter():
    model = tiny_net()
    pair = Subject("a", model), Subject("b", Scaled(model, 1.25))
    found = compare(pair, RANDOM, SETTINGS).difference
    assert found.relative_max == pytest.approx(0.25)
    assert found.relative_mean == pytest.approx(0.25)
    assert found.agreement == 1.0


def test_differences_by_hand():
    first = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[3.0, 4.5], [0.0, 0.0], [0.0, 1.0]])
    found = output_difference(first, second, 3)
    assert found.relative_max == pytest.approx(2**0.5)
    assert found.relative_sum == pytest.approx(0.1 + 2**0.5)
    assert found.absolute_max == 1.0
    assert found.same_class == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_never_pass(bad):
    model = tiny_net()
    pair = Subject("a", model), Subject("b", Scaled(model, bad))
    found = compare(pair, RANDOM, SETTINGS)
    assert found.difference.relative_max == float("inf")
    assert len(found.failures(max_diff=1e9)) == 1
    assert (
        json.loads(json.dumps(found.to_dict(), allow_nan=False))["difference"]["relative_max"]
        is None
    )


def test_a_change_from_zero_is_infinite():
    found = output_difference(torch.zeros(1, 2), torch.tensor([[0.0, 1e-9]]), 1)
    assert found.relative_max == float("inf")


def test_accuracy_of_both_and_the_drop():
    data = stripes(20)
    model = tiny_net()
    flipped = Scaled(model, -1.0)
    found = compare((Subject("a", model), Subject("b", flipped)), data, SETTINGS)
    assert found.first.evaluation is not None
    assert found.second.evaluation is not None
    assert found.first.evaluation.top1 + found.second.evaluation.top1 == 20
    drop = 100 * (found.first.evaluation.accuracy - found.second.evaluation.accuracy)
    assert bool(found.failures(max_drop=drop - 1))
    assert found.failures(max_drop=drop + 1) == []
    assert found.difference.agreement == 0.0


def test_a_drop_cannot_be_checked_on_random_images():
    model = tiny_net()
    found = compare((Subject("a", model), Subject("b", model)), RANDOM, SETTINGS)
    with pytest.raises(DataError, match="labelled"):
        found.failures(max_drop=1.0)


def test_outputs_of_different_shape_are_refused():
    wide = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    with pytest.raises(OutputError, match=r"\(4, 2\) and \(4, 5\)"):
        compare((Subject("a", tiny_net()), Subject("b", wide)), RANDOM, SETTINGS)


def test_parameters_and_macs_by_hand():
    model = tiny_net(norm=False)
    weights = 8 * 3 * 9, 8 * 9, 8 * 8, 2 * 8
    assert count_parameters(model) == sum(weights) + 8 + 8 + 8 + 2
    assert count_macs(model, (3, 8, 8)) == 64 * sum(weights[:3]) + weights[3]
    assert model.training


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert count_parameters(model) == 16


def test_latency_is_of_warm_passes_in_order():
    calls = []

    class Counting(nn.Module):
        def forward(self, x):
            calls.append(x.shape)
            return x

    found = measure_latency(Counting(), (3, 4, 4), batch_size=2, runs=8)
    assert len(calls) == 2 + 8
    assert set(calls) == {torch.Size([2, 3, 4, 4])}
    assert 0 <= found.low_ms <= found.median_ms <= found.high_ms


def test_json_and_picture(tmp_path):
    model = tiny_net()
    small = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    pair = Subject("whole", model, 4000), Subject("small", small, 1000)
    found = compare(pair, stripes(8), ComparisonSettings(latency_runs=1))
    document = json.loads(json.dumps(found.to_dict()))
    assert document["schema"] == "filtersurgeon.comparison/2"
    assert document["second"]["macs"] == 192 * 2
    assert document["first"]["evaluation"]["n_images"] == 8
    assert document["first"]["latency"]["runs"] == 1
    assert cost_ratios(found)["file size"] == 0.25
    plot_comparison(found, tmp_path / "pair.png")
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["pair.png"]
