"""Parts of pruning to a target, each against an independent formula or against brute force."""

from __future__ import annotations

import gc
import itertools
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

import filtersurgeon as fs
from filtersurgeon.data.images import prepared_images
from filtersurgeon.errors import GraphError, OptionError
from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.graph import channel_graph
from filtersurgeon.graph.groups import channels_each
from filtersurgeon.graph.opened_model import OpenedModel, open_model
from filtersurgeon.graph.program import record_program
from filtersurgeon.pruning.compensation.calibration import Calibration
from filtersurgeon.pruning.compensation.sampling import patches
from filtersurgeon.pruning.compensation.watch import Call
from filtersurgeon.pruning.reconstruction.allocation import (
    Sizes,
    allocate,
    allowed_removals,
    uniform,
)
from filtersurgeon.pruning.reconstruction.calibration import open_bench, with_streams
from filtersurgeon.pruning.reconstruction.fitting import (
    RIDGES,
    Columns,
    Fit,
    RowSums,
    StoredRows,
    _best_ridge,
    fit,
    removal_order,
)
from filtersurgeon.pruning.reconstruction.layers import Candidate
from filtersurgeon.pruning.reconstruction.plan_file import FORMAT, CutPlan, PlannedBundle
from filtersurgeon.pruning.reconstruction.reconstruct import carry_out, prepare
from filtersurgeon.pruning.target import Target, read_target
from filtersurgeon.pruning.worth import Comparison, Worth

torch.set_num_threads(1)

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=dtype)


# A run as a program.


class InPlace(nn.Module):
    """Operators in place, a slice that is written, a weight in another shape, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.scale = nn.Parameter(torch.rand(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        y = self.norm(self.first(x))
        y.relu_()
        y += self.second(y)
        y[:, :2] *= 0.5
        y = y * self.scale.reshape(1, 8, 1, 1)
        return {"map": y, "logits": self.head(y.mean((2, 3)))}


class Branches(nn.Module):
    """Branches that are concatenated and split, with a tensor that the code makes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        joined = torch.cat([self.left(x), self.right(x)], 1)
        one, two = joined.chunk(2, 1)
        weights = torch.linspace(0, 1, 4).reshape(1, 4, 1, 1)
        return self.head(torch.cat([one * weights, two.sigmoid()], 1).amax((2, 3)))


def outputs_of(network: nn.Module, tensors: dict, images: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        found = functional_call(network, tensors, images)
    return list(found.values()) if isinstance(found, dict) else [found]


@pytest.mark.parametrize("make", [InPlace, Branches])
def test_a_recorded_run_gives_the_outputs_from_every_point(make):
    torch.manual_seed(0)
    network = make().eval()
    images = normal(2, 3, 6, 6, dtype=torch.float32)
    program = record_program(network, images)
    state = dict(network.state_dict())
    changed = {
        name: tensor * 1.5 if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }
    others = normal(2, 3, 6, 6, seed=1, dtype=torch.float32)
    for tensors, batch in ((state, images), (changed, images), (changed, others)):
        expected = outputs_of(network, tensors, batch)
        for place in range(len(program.order) + 1):
            values = {0: batch}
            with torch.no_grad():
                program.run(values, tensors, stop=place, keep=program.outputs)
                assert set(program.live(place)) <= set(values)
                values = {number: values[number] for number in program.live(place)}
                program.run(values, tensors, start=place, keep=program.outputs)
            for number, wanted in zip(program.outputs, expected, strict=True):
                assert torch.equal(values[number], wanted)
    assert program.scores == program.outputs[-1]


def test_a_run_knows_what_depends_on_a_tensor():
    torch.manual_seed(0)
    network = InPlace().eval()
    program = record_program(network, normal(2, 3, 6, 6, dtype=torch.float32))
    convolutions = [n for n in program.order if program.steps[n].name == "convolution"]
    assert program.tensors_of(convolutions[1]) >= {"second.weight"}
    touched = program.touched_by({"second.weight"})
    assert convolutions[1] in touched
    assert convolutions[0] not in touched
    assert set(program.outputs) <= touched
    assert program.touched_by({"head.bias"}) == {program.scores}


def test_a_value_can_be_had_before_a_step_unless_it_comes_from_it():
    torch.manual_seed(0)
    network = Branches().eval()
    images = normal(2, 3, 6, 6, dtype=torch.float32)
    program = record_program(network, images)
    left, right = (n for n in program.order if program.steps[n].name == "convolution")
    assert program.arrange([(left, right), (right, left)]) == {(left, right)}
    assert program.place[right] < program.place[left]
    values = {0: images}
    with torch.no_grad():
        program.run(values, dict(network.state_dict()), keep=program.outputs)
        assert torch.equal(values[program.outputs[0]], network(images))


def test_a_run_that_depends_on_values_is_refused():
    class Deciding(nn.Module):
        def forward(self, x):
            return x + 1 if float(x.sum()) > 0 else x

    with pytest.raises(GraphError, match="cannot be recorded") as refused:
        record_program(Deciding(), torch.ones(2, 3, 4, 4))
    assert "\n" not in str(refused.value)


def test_a_run_may_read_numbers_that_do_not_depend_on_images():
    class Guarded(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([3.0]))

        def forward(self, x):
            assert torch.isfinite(x).all()
            return x * self.scale.item()

    network, images = Guarded(), torch.ones(2, 3, 4, 4)
    program = record_program(network, images, settled=True)
    values = {0: 2 * images}
    program.run(values, dict(network.named_parameters()), keep=program.outputs)
    assert torch.equal(values[program.outputs[0]], 6 * images)


# Fits.


def rows(count: int, inputs: int, outputs: int, seed: int = 0, dtype=torch.float64):
    """Correlated inputs with an offset, and outputs that are nearly linear in them."""
    mixing = normal(inputs, inputs, seed=seed)
    x = normal(count, inputs, seed=seed + 1) @ mixing + 3
    y = x @ normal(inputs, outputs, seed=seed + 2) + normal(count, outputs, seed=seed + 3) - 5
    return x.to(dtype), y.to(dtype)


def solve(x, y, prior, ridge, variance, constant):
    """Ridge regression towards a prior as an ordinary least-squares problem with more rows."""
    x, y, prior = x.numpy(), y.numpy(), prior.numpy()
    mean_x, mean_y = (x.mean(0), y.mean(0)) if constant else (0 * x[0], 0 * y[0])
    pull = np.sqrt(len(x) * ridge * variance)
    tall = np.concatenate([x - mean_x, np.diag(pull)])
    wanted = np.concatenate([y - mean_y, pull[:, None] * prior.T])
    weight = np.linalg.lstsq(tall, wanted, rcond=None)[0].T
    return weight, mean_y - weight @ mean_x


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("noise", [0.0, 30.0])
def test_fits_are_ridge_regressions_and_held_out_rows_choose_the_ridge(constant, noise):
    x, y = rows(60, 12, 4)
    y = y + noise * normal(60, 4, seed=9)
    held_x, held_y = rows(40, 12, 4)
    prior, importance = normal(4, 12, seed=5), torch.tensor([1.0, 3.0, 0.5, 2.0]).double()
    columns = torch.tensor([0, 2, 3, 7, 8, 11])
    sums = RowSums(12, 4, CPU)
    for start in (0, 25):  # The origin is that of the first rows.
        sums.add(x[start : start + 25 + 10 * bool(start)], y[start : start + 25 + 10 * bool(start)])
    sums.hold(held_x, held_y)
    assert sums.rows == 60
    found = fit(sums, columns, prior, importance, constant=constant)

    centred = x - x.mean(0) if constant else x
    variance = centred.square().mean(0)
    scale = (variance[columns] + 1e-3 * variance.mean()).numpy()
    errors = []
    for ridge in RIDGES:
        weight, added = solve(x[:, columns], y, prior[:, columns], ridge, scale, constant)
        lost = held_y.numpy() - held_x[:, columns].numpy() @ weight.T - added
        errors.append(float((lost**2).mean(0) @ importance.numpy()))
        if ridge == found.ridge:
            np.testing.assert_allclose(found.weight.numpy(), weight, rtol=1e-7, atol=1e-9)
            np.testing.assert_allclose(found.constant.numpy(), added, rtol=1e-6, atol=1e-8)
            assert found.error == pytest.approx(errors[-1], rel=1e-6)
    assert found.ridge == RIDGES[int(np.argmin(errors))]


@pytest.mark.parametrize("width", [40, 100, 301])
def test_moments_of_all_widths_are_covariances(width):
    x, y = normal(700, width), normal(700, 3, seed=1)
    sums = RowSums(width, 3, CPU)
    for x_part, y_part in zip(x.split(300), y.split(300), strict=True):
        sums.add(x_part, y_part)
    wanted = torch.cov(torch.cat([x, y], dim=1).T, correction=0)
    gram, cross = sums.centred()
    torch.testing.assert_close(gram, wanted[:width, :width], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(cross, wanted[width:, :width], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sums.variances(), gram.diagonal(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("count", [2, 1000])
def test_patches_are_what_filters_see(count, last):
    geometry = ((2, 1), (1, 2), (1, 2))  # stride, padding, dilation
    images = normal(3, 5, 12, 11)
    if last:
        images = images.contiguous(memory_format=torch.channels_last)
    weight = normal(7, 5, 3, 2, seed=1)
    made = torch.conv2d(images, weight, None, *geometry)
    draw = torch.Generator().manual_seed(0)
    rows, seen = patches(Call(images, made, geometry), (3, 2), count, draw)
    assert rows.shape == (3 * min(count, made[0, 0].numel()), 6, 5)
    product = torch.einsum("rti,oit->ro", rows, weight.flatten(2))
    torch.testing.assert_close(product, seen)


def test_moments_do_not_depend_on_the_order_of_the_rows():
    x, y = rows(50, 6, 3)
    x = x + 1e4  # Far from zero, where sums of squares would lose digits.
    sums = RowSums(6, 3, CPU)
    sums.add(x[:7].float(), y[:7].float())
    sums.add(x[7:].float(), y[7:].float())
    apart = x.float().double() - x.float().double().mean(0)
    torch.testing.assert_close(sums.centred()[0], apart.T @ apart / 50, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sums.means()[0], x.float().double().mean(0))


@pytest.mark.parametrize("constant", [True, False])
def test_stored_rows_give_the_fits_of_their_moments(constant):
    x, y = rows(30, 40, 3, dtype=torch.float32)  # More numbers in a row than rows.
    held_x, held_y = rows(20, 40, 3, dtype=torch.float32)
    prior, importance = normal(3, 40, seed=5), torch.ones(3).double()
    fits = []
    for kind in (RowSums, StoredRows):
        sums = kind(40, 3, CPU)
        sums.add(x[:17], y[:17])
        sums.add(x[17:], y[17:])
        sums.hold(held_x, held_y)
        fits.append(fit(sums, torch.arange(40), prior, importance, constant=constant))
    one, other = fits
    assert one.ridge == other.ridge
    torch.testing.assert_close(one.weight, other.weight.double(), rtol=0, atol=5e-3)
    made = [held_x.double() @ each.weight.double().T + each.constant.double() for each in fits]
    torch.testing.assert_close(*made, rtol=0, atol=1e-3 * float(held_y.std()))
    assert one.error == pytest.approx(other.error, rel=1e-3)


# The order of removal.


def reader(count: int, each: int, outputs: int, seed: int) -> tuple:
    """A layer that reads groups of columns, with its moments, map and importance."""
    x = rows(200, count * each, 1, seed=seed)[0]
    moments = (x.T @ x / 200).numpy()
    weight = normal(outputs, count * each, seed=seed + 7).numpy()
    importance = 0.5 + normal(outputs, seed=seed + 8).abs().numpy()
    scaled = torch.from_numpy(np.sqrt(importance)[:, None] * weight)
    columns = Columns(torch.from_numpy(np.linalg.inv(moments)), scaled, each)
    return columns, moments, weight, importance


def cost_without(gone: list[int], each: int, moments, weight, importance) -> float:
    """What a layer's outputs lose without groups, all others refitted by least squares."""
    out = np.concatenate([np.arange(g * each, (g + 1) * each) for g in gone])
    rest = np.setdiff1d(np.arange(len(moments)), out)
    refitted = np.zeros_like(weight)
    refitted[:, rest] = np.linalg.solve(
        moments[np.ix_(rest, rest)], (weight @ moments)[:, rest].T
    ).T
    change = weight - refitted
    return float(importance @ np.einsum("oi,ij,oj->o", change, moments, change))


@pytest.mark.parametrize("each", [1, 3])
def test_channels_go_where_refitted_others_miss_them_least(each):
    made = [reader(6, each, 4, 0), reader(6, each, 2, 50)]
    order, errors = removal_order([columns for columns, *_ in made], 6, 1, at_once=1)
    assert len(order) == len(errors) == 5
    gone: list[int] = []
    for number, error in zip(order, errors, strict=True):
        costs = {
            other: sum(cost_without([*gone, other], each, *rest) for _, *rest in made)
            for other in range(6)
            if other not in gone
        }
        assert number == min(costs, key=costs.__getitem__)
        gone.append(number)
        assert error == pytest.approx(costs[number], rel=1e-6)


def test_several_channels_at_once():
    columns, *rest = reader(9, 2, 3, 1)
    order, errors = removal_order([columns], 9, 2, at_once=3)
    assert len(set(order)) == len(order) == len(errors) == 7
    assert errors == sorted(errors)
    assert errors[-1] == pytest.approx(cost_without(order, 2, *rest), rel=1e-6)


# Allocation.


def candidates_of(opened: OpenedModel) -> list[Candidate]:
    """Give every bundle that may go, under a number."""
    bundles = [bundle for bundle in opened.graph.groups.bundles if not bundle.pinned]
    return [Candidate(str(n), bundle, (), False) for n, bundle in enumerate(bundles)]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("quantity", ["params", "macs"])
def test_sizes_are_those_of_the_cost_model(name, quantity):
    opened = open_model(fs.untrained(f"timm:{name}"))
    candidates = candidates_of(opened)
    everything = np.ones(len(opened.graph.groups), bool)
    sizes = Sizes(opened.graph, candidates, quantity, everything)
    model, random = CostModel(opened.graph), np.random.default_rng(0)
    for _ in range(4):
        widths = np.array([random.integers(1, c.width + 1) for c in candidates])
        keep = everything.copy()
        for candidate, width in zip(candidates, widths, strict=True):
            groups = random.permutation(candidate.bundle.groups)
            keep[groups[width:]] = False
        cost = model.cost(keep)
        wanted = cost.parameters if quantity == "params" else cost.macs
        assert sizes(widths) == pytest.approx(wanted, rel=1e-12)
    # Of one bundle, all others fixed, the size is quadratic at most: the slope is its derivative.
    slopes = sizes.slopes(sizes.full)
    for number, candidate in enumerate(candidates):
        step = np.eye(len(candidates), dtype=np.int64)[number]
        if candidate.width > 1:
            central = (sizes(sizes.full + step) - sizes(sizes.full - step)) / 2
            assert slopes[number] == pytest.approx(central, rel=1e-9)


def test_sizes_with_other_groups_gone():
    opened = open_model(fs.untrained("timm:test_resnet"))
    all_of_them = candidates_of(opened)
    keep = np.ones(len(opened.graph.groups), bool)
    keep[all_of_them[0].bundle.groups[1:]] = False
    sizes = Sizes(opened.graph, all_of_them[1:], "macs", keep)
    assert sizes(sizes.full) == pytest.approx(CostModel(opened.graph).cost(keep).macs, rel=1e-12)


class Linear:
    """Sizes that are sums of widths times prices."""

    def __init__(self, widths: list[int], prices: list[float]) -> None:
        self.full, self.prices = np.array(widths), np.array(prices)

    def __call__(self, widths):
        return float(self.prices @ widths)

    def slopes(self, widths):  # noqa: ARG002
        return self.prices


def best_of_all(sizes, losses, allowed, wanted) -> float:
    totals = [
        sum(loss[gone] for loss, gone in zip(losses, cut, strict=True))
        for cut in itertools.product(*(numbers.tolist() for numbers in allowed))
        if sizes(sizes.full - np.array(cut)) <= wanted
    ]
    return min(totals, default=math.inf)


@pytest.mark.parametrize("seed", range(8))
def test_allocation_against_brute_force(seed):
    random = np.random.default_rng(seed)
    convex = seed % 2 == 0
    losses = [np.concatenate([[0], random.exponential(size=10).cumsum()]) for _ in range(2)]
    if convex:
        losses = [np.sort(np.diff(loss)).cumsum() for loss in losses]
        losses = [np.concatenate([[0], loss]) for loss in losses]
    allowed = [np.arange(11)] * 2
    prices = [2.0, 2.0] if convex else [2.0, 3.0]
    sizes = Linear([12, 12], prices)
    for share in (0.9, 0.6, 0.35):
        wanted = share * sizes(sizes.full)
        found = allocate(sizes, losses, allowed, wanted)
        assert found.size == sizes(found.kept) <= wanted
        gone = sizes.full - found.kept
        total = sum(loss[n] for loss, n in zip(losses, gone, strict=True))
        assert found.loss == pytest.approx(total)
        if convex:  # Equal prices and rising costs: the greedy choice is the best one.
            assert found.loss == pytest.approx(best_of_all(sizes, losses, allowed, wanted))
        else:  # Otherwise it is at most a few steps away from it.
            bound = best_of_all(sizes, losses, allowed, wanted - 4 * max(prices))
            assert found.loss <= bound + 1e-9


@pytest.mark.parametrize("share", [0.9, 0.7, 0.5, 0.35])
@pytest.mark.parametrize("quantity", ["params", "macs"])
def test_allocation_uses_the_room_up(share, quantity):
    opened = open_model(fs.untrained("timm:test_resnet"))
    candidates = candidates_of(opened)
    sizes = Sizes(opened.graph, candidates, quantity, np.ones(len(opened.graph.groups), bool))
    losses = [np.arange(c.width) ** 1.5 * (1 + n) for n, c in enumerate(candidates)]
    allowed = [allowed_removals(c.width, c.width - 1, 1) for c in candidates]
    wanted = share * sizes(sizes.full)
    found = allocate(sizes, losses, allowed, wanted)
    assert found.size <= wanted
    # One group more of any bundle would be too much.
    for number, candidate in enumerate(candidates):
        if found.kept[number] < candidate.width:
            more = found.kept + np.eye(len(candidates), dtype=np.int64)[number]
            assert sizes(more) > wanted
    same = uniform(sizes, allowed, sizes.full, wanted)
    assert same.size == sizes(same.kept) <= wanted
    shares = same.kept / sizes.full
    assert float(np.ptp(shares)) <= 1 / sizes.full.min() + 1e-9
    assert math.isnan(same.loss)
    # What lost a group at the very last share has it back where there is room.
    least = min(
        sizes(same.kept + step) - same.size
        for step, kept, full in zip(
            np.eye(len(candidates), dtype=np.int64), same.kept, sizes.full, strict=True
        )
        if kept / full <= shares.min() + 1 / full
    )
    assert wanted - same.size < max(least, 0.01 * wanted)


def test_what_cannot_be_reached_is_cut_as_far_as_it_goes():
    sizes = Linear([8, 8], [1.0, 1.0])
    found = allocate(sizes, [np.arange(5.0)] * 2, [np.arange(5)] * 2, 3.0)
    assert found.kept.tolist() == [4, 4]


def test_removals_that_leave_multiples():
    assert allowed_removals(20, 18, 8).tolist() == [0, 4, 12]
    assert allowed_removals(6, 6, 1).tolist() == [0, 1, 2, 3, 4, 5]
    assert allowed_removals(16, 14, 8, least=12).tolist() == [0]
    assert allowed_removals(5, 3, 1, least=4).tolist() == [0, 1]


# Words for a target.


@pytest.mark.parametrize(
    ("words", "share", "amount"),
    [
        ("macs=0.5x", 0.5, None),
        ("macs=0.5", 0.5, None),
        ("params=1x", 1.0, None),
        ("params = 0.2X", 0.2, None),
        ("macs=200M", None, 2e8),
        ("macs=1.5G", None, 1.5e9),
        ("params=250k", None, 2.5e5),
        ("params=3e6", None, 3e6),
        ("latency=12ms", None, 0.012),
        ("latency=0.7x", 0.7, None),
        ("latency=2s", None, 2.0),
        ("latency=800us", None, 8e-4),
    ],
)
def test_targets(words, share, amount):
    found = read_target(words)
    assert found.share == share
    assert found.amount == (None if amount is None else pytest.approx(amount))
    again = read_target(str(found))
    assert again.wanted(1e7) == pytest.approx(found.wanted(1e7))
    assert found.wanted(1e7) == pytest.approx(amount or share * 1e7)


@pytest.mark.parametrize(
    "words",
    ["macs", "macs=", "macs=x", "macs=0x", "macs=-1M", "macs=1.5x", "macs=12ms", "latency=3M",
     "flops=0.5x", "macs=nan", "macs=inf", "macs=0.5xx", "=0.5x", "latency=5", "macs=0"],
)  # fmt: skip
def test_targets_that_mean_nothing(words):
    with pytest.raises(OptionError, match=r"should read macs=0\.5x") as refused:
        read_target(words)
    assert "\n" not in str(refused.value)


def test_a_target_names_itself():
    assert str(Target("macs", 0.5)) == "macs=0.5x"
    assert str(read_target("latency=12ms")) == "latency=12ms"


# What a network is worth.


def logits(*rows: list[float]) -> torch.Tensor:
    return torch.log(torch.tensor(rows))


def test_agreement_and_divergence_in_closed_form():
    comparison = Comparison()
    before = logits([0.5, 0.5 - 1e-9, 1e-9], [0.7, 0.2, 0.1])
    comparison.add(before, logits([0.25, 0.75 - 1e-9, 1e-9], [0.7, 0.2, 0.1]))
    comparison.add(logits([0.1, 0.8, 0.1]), logits([0.2, 0.6, 0.2]))
    found = comparison.worth(held_out=True)
    assert (found.images, found.held_out, found.top1) == (3, True, None)
    assert found.agreement == pytest.approx(2 / 3)
    first = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    last = 0.1 * math.log(0.1 / 0.2) * 2 + 0.8 * math.log(0.8 / 0.6)
    assert found.divergence == pytest.approx((first + last) / 3, rel=1e-4)
    assert "same class on 66.7% of 3 held-out images, KL " in found.describe()


def test_labels_count_only_if_they_are_the_classes_of_the_network():
    sure = torch.eye(20)[torch.arange(40) % 20] * 5
    worse = sure.clone()
    worse[:10] = sure[1:11]

    def top1(labels: torch.Tensor) -> tuple[float, float] | None:
        comparison = Comparison()
        comparison.add(sure, worse, labels)
        return comparison.worth(held_out=False).top1

    own = torch.arange(40) % 20
    assert top1(own) == (1.0, 0.75)
    assert top1((own + 1) % 20) is None  # The original is no better than chance.
    assert top1(torch.full((40,), -1)) is None
    assert top1(own + 10) is None  # There are more classes than outputs.
    assert top1(torch.zeros(40, dtype=torch.int64)) is None  # All of one class.


def test_outputs_that_are_no_classes():
    comparison = Comparison()
    made = normal(4, 3, 5, 5, dtype=torch.float32)
    comparison.add(made, made + 0.1)
    found = comparison.worth(held_out=False)
    assert (found.agreement, found.top1, found.images) == (None, None, 4)
    assert found.divergence == pytest.approx(0.01 / float(made.var(unbiased=False)), rel=1e-4)
    assert "of their variance on 4 images" in found.describe()


def test_a_tenth_of_the_images_is_the_limit():
    assert Worth(10, True, 0.899, 0.1).poor
    assert not Worth(10, True, 0.9, 0.1).poor
    assert Worth(10, True, None, 0.11).poor
    assert not Worth(10, True, None, 0.09).poor


# Plans.


def test_plans_are_read_as_they_were_written(tmp_path):
    bundles = {
        "layer1.0.conv1": PlannedBundle(16, 9, ((11, 1e-3), (6, 0.02)), tuple(np.arange(15) / 9.0)),
        "stem": PlannedBundle(8, 8, readers=("head", "tail")),
    }
    plan = CutPlan(bundles, "macs=0.5x", {"conv1": "a residual stream"})
    path = tmp_path / "plan.yaml"
    path.write_text(plan.to_yaml())
    found = CutPlan.read(str(path))
    assert found.keep == plan.keep == {"layer1.0.conv1": 9, "stem": 8}
    assert found.bundles["layer1.0.conv1"].width == 16
    assert CutPlan.read(plan) is plan
    assert repr(plan) == "CutPlan(2 bundles, 17 of 24 groups kept)"
    text = path.read_text()
    assert "measured_loss: {11: 0.001, 6: 0.02}" in text
    assert "a residual stream" in text
    path.write_text(text.replace("keep: 9", "keep: 7"))
    assert CutPlan.read(str(path)).keep["layer1.0.conv1"] == 7
    path.write_text(f"format: {FORMAT}\nbundles: {{stem: 3}}\n")  # As short as it may be.
    assert CutPlan.read(str(path)).keep == {"stem": 3}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "no plan can be read"),
        ("a: 1\n\tb: 2", "no plan can be read"),
        ("- 1\n- 2\n", "not a plan"),
        ("format: filtersurgeon.plan/9\nbundles: {a: 1}\n", "not a plan"),
        (f"format: {FORMAT}\n", "no bundles"),
        (f"format: {FORMAT}\nbundles: [1]\n", "no bundles"),
        (f"format: {FORMAT}\nbundles: {{a: {{keep: -1}}}}\n", "a should keep a whole number"),
        (f"format: {FORMAT}\nbundles: {{a: {{keep: 1.5}}}}\n", "a should keep a whole number"),
        (f"format: {FORMAT}\nbundles: {{a: {{keep: true}}}}\n", "a should keep a whole number"),
        (f"format: {FORMAT}\nbundles: {{a: many}}\n", "a should keep a whole number"),
        (f"format: {FORMAT}\nbundles: {{a: {{width: 4}}}}\n", "a should keep a whole number"),
    ],
)
def test_files_that_are_no_plans(tmp_path, text, words):
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(OptionError, match=words) as refused:
        CutPlan.read(str(path))
    assert "\n" not in str(refused.value)
    assert "plan.yaml" in str(refused.value)


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(OptionError, match="no plan can be read") as refused:
        CutPlan.read(str(tmp_path / "none.yaml"))
    assert "\n" not in str(refused.value)


# Planted structure: channels that others can stand in for.


def planted(kind: str) -> nn.Module:
    """A network in which six of twelve channels are mixtures, or multiples, of the other six.

    The filters that they are mixed from are the smaller ones, so that a norm would remove these.
    """
    torch.manual_seed(0)
    first = nn.Conv2d(3, 12, 3, padding=1)
    network = nn.Sequential(
        first, nn.Identity() if kind == "mixtures" else nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    mixing = normal(6, 6, dtype=torch.float32) + 2 * torch.eye(6)
    if kind == "copies":
        mixing = torch.diag(torch.linspace(1.5, 3, 6))
    with torch.no_grad():
        first.weight[6:] = torch.tensordot(mixing, first.weight[:6], 1)
        first.bias[6:] = mixing @ first.bias[:6]
    return network.eval()


def left_after(network: nn.Module, images: torch.Tensor, ranks=None, refit=True) -> float:
    """Cut six of the twelve channels; give the largest relative change of new outputs."""
    graph = channel_graph(network, torch.empty(1, 3, 8, 8, device="meta"))
    opened = OpenedModel(None, network, graph, frozenset())
    calibration = Calibration(prepared_images(images, "noise"), 0, CPU, 0)
    prepared = prepare(open_bench(opened, calibration), ranks=ranks)
    cut = carry_out(prepared, {"0": 6}, refit=refit, chosen=ranks is not None)
    bundle = prepared.bench.survey.candidates[0].bundle
    assert channels_each(graph.groups, bundle.axes, int(bundle.groups[0])) == 1
    assert cut.keep[bundle.groups].sum() == 6
    alive = cut.keep[graph.groups.of]
    tensors = {name: t.clone() for name, t in network.state_dict().items()}
    tensors.update(cut.changed)
    gone = torch.from_numpy(~alive[graph.trace.slots["0.weight"][0]])
    tensors["0.weight"][gone], tensors["0.bias"][gone] = 0, 0
    fresh = normal(50, 3, 8, 8, seed=77, dtype=torch.float32)
    with torch.no_grad():
        before, after = network(fresh), functional_call(network, tensors, fresh)
    return float((before - after).abs().max() / (before - before.mean(0)).abs().max())


@pytest.mark.parametrize("kind", ["mixtures", "copies"])
def test_channels_that_others_stand_in_for_go_without_a_loss(kind):
    network = planted(kind)
    images = normal(80, 3, 8, 8, seed=3, dtype=torch.float32)
    # What is left is the smallest ridge, which pulls the weights towards what they were.
    assert left_after(network, images) < 1e-4
    norms = network[0].weight.detach().flatten(1).norm(dim=1)
    by_norm = {"0": norms.argsort().argsort().numpy() / 11}
    assert left_after(network, images, by_norm, refit=False) > 0.1


def test_one_fit_is_kept_of_the_ridges_that_are_tried():
    """Maps of large layers fill memory: no more than the best and the newest may live."""
    alive = weakref.WeakSet()
    most = 0

    def attempt(ridge: float) -> Fit:
        nonlocal most
        gc.collect()
        made = Fit(torch.zeros(1), torch.zeros(1), abs(math.log10(ridge) + 3.4), ridge)
        alive.add(made)
        most = max(most, len(alive))
        return made

    assert _best_ridge(attempt).ridge == 1e-3
    assert most <= 2


class Streams(nn.Module):
    """Two residual blocks without activations: linear in the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.grow = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(2))
        self.join = nn.ModuleList(nn.Conv2d(6, 6, 1) for _ in range(2))
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for grow, join in zip(self.grow, self.join, strict=True):
            x = x + join(grow(x))
        return self.head(x.mean((2, 3)))


def streams(kind: type[nn.Module]) -> tuple[OpenedModel, Calibration]:
    torch.manual_seed(0)
    network = kind().eval()
    graph = channel_graph(network, torch.empty(1, 3, 8, 8, device="meta"))
    images = normal(80, 3, 8, 8, seed=3, dtype=torch.float32)
    calibration = Calibration(prepared_images(images, "noise"), 0, CPU, 0)
    return OpenedModel(None, network, graph, frozenset()), calibration


def test_layers_that_lose_nothing_make_up_for_what_the_stream_lacks():
    """The second block reads and writes the whole stream, so it can take the error back."""
    opened, calibration = streams(Streams)
    network = opened.network
    prepared = prepare(open_bench(opened, calibration))
    cut = carry_out(prepared, {"grow.0": 2})
    assert set(cut.ridges) == {"join.0", "grow.1", "join.1"}  # not the head, which reads a mean
    tensors = {**network.state_dict(), **cut.changed}
    fresh = normal(50, 3, 8, 8, seed=77, dtype=torch.float32)
    with torch.no_grad():
        before, after = network(fresh), functional_call(network, tensors, fresh)
        only = {name: t for name, t in tensors.items() if ".1" not in name}
        alone = functional_call(network, {**network.state_dict(), **only}, fresh)
    spread = (before - before.mean(0)).abs().max()
    assert (before - after).abs().max() < 1e-3 * spread
    assert (before - alone).abs().max() > 0.1 * spread


class Viewed(Streams):
    """The same network, which takes for granted that an image's values lie channel by channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for grow, join in zip(self.grow, self.join, strict=True):
            x = x + join(grow(x))
        return self.head(x.view(len(x), -1).reshape(len(x), 6, -1).mean(2))


@pytest.mark.parametrize(("kind", "last"), [(Streams, True), (Viewed, False)])
def test_values_lie_channels_last_where_the_network_permits_it(kind, last):
    opened, calibration = streams(kind)
    bench = open_bench(opened, calibration)
    layout = torch.channels_last if last else torch.contiguous_format
    assert all(batch.images.is_contiguous(memory_format=layout) for batch in bench.batches)
    cut = carry_out(prepare(bench), {"grow.0": 4})
    opened, calibration = streams(Streams)
    other = carry_out(prepare(open_bench(opened, calibration)), {"grow.0": 4})
    one, same = cut.changed["join.0.weight"], other.changed["join.0.weight"]
    torch.testing.assert_close(one, same, rtol=1e-3, atol=1e-4)


def test_streams_are_measured_on_top_of_what_is_known():
    opened, calibration = streams(Streams)
    bench = open_bench(opened, calibration)
    before = prepare(bench)
    wide = with_streams(bench)
    found, anew = prepare(wide, before=before).statistics, prepare(wide).statistics
    assert [c.candidate.name for c in before.statistics.curves] == ["grow.0", "grow.1"]
    assert [c.candidate.name for c in found.curves] == [c.candidate.name for c in anew.curves]
    assert len(found.curves) == 3
    for one, other in zip(found.curves, anew.curves, strict=True):
        assert one.order.tolist() == other.order.tolist()
        np.testing.assert_allclose(one.errors, other.errors, rtol=1e-4)
        np.testing.assert_allclose(one.measured, other.measured, rtol=1e-3)
        assert one.coupled == other.coupled
