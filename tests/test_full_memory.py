"""Full memory: batches that do not fit are halved, and the results stay what they are."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest
import torch
from learning import arrays, noise_images, stripes, tiny_net
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.archetypes import archetypal_analysis_batch, torch_search
from filtersurgeon.errors import FilterSurgeonWarning, OutOfMemoryError
from filtersurgeon.graph.program import Program
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.session import TrainingData
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.train import train
from filtersurgeon.networks.devices import FittingBatches
from filtersurgeon.networks.opened_module import open_module
from filtersurgeon.ranking.saliency import SaliencySettings, saliency

HALVED = pytest.mark.filterwarnings("ignore:out of memory with")
RECIPE = TrainingRecipe(lr=0.05, optimizer="sgd", momentum=0.9)
RUN = RunSettings(epochs=2, batch_size=8, seed=1, device="cpu")


def run_out() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Limited(nn.Module):
    """A network that fits so many images at once."""

    def __init__(self, limit: int, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner = tiny_net().eval() if inner is None else inner
        self.limit = limit
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        if len(x) > self.limit:
            run_out()
        return self.inner(x)


class Backward(torch.autograd.Function):
    """Runs out of memory in the backward pass."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, limit: int) -> torch.Tensor:
        ctx.limit = limit
        return x.clone()

    @staticmethod
    def backward(ctx, slope: torch.Tensor):
        if len(slope) > ctx.limit:
            run_out()
        return slope, None


class LimitedBackward(Limited):
    """A network whose gradients of so many images fit at once, behind its last layer."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        made = self.inner.norm(self.inner.stem(Backward.apply(x.requires_grad_(), self.limit)))
        return self.inner.head(functional.relu(made).mean((2, 3)))


def test_a_batch_that_does_not_fit_is_halved() -> None:
    whole = evaluate(tiny_net(), stripes(20), 2)
    network = Limited(5)
    with pytest.warns(FilterSurgeonWarning) as told:
        found = evaluate(network, stripes(20), 2, EvaluationSettings(batch_size=16))
    assert [str(each.message) for each in told] == [
        "out of memory with batch size 16; continuing with batch size 8",
        "out of memory with batch size 8; continuing with batch size 4",
    ]
    assert network.sizes == [16, 8, 4, 4, 4, 4, 4]
    assert (found.n_images, found.top1, found.top5) == (20, whole.top1, whole.top5)
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)


def test_an_image_that_does_not_fit_is_said_to() -> None:
    with (
        pytest.warns(FilterSurgeonWarning),
        pytest.raises(OutOfMemoryError, match="batch size 1; use a smaller input size"),
    ):
        evaluate(Limited(0), stripes(4), 2, EvaluationSettings(batch_size=2))


def trained(network: nn.Module, run: RunSettings = RUN) -> dict[str, np.ndarray]:
    data = TrainingData(stripes(20), stripes(8, seed=1), 2)
    found = train(network, data, RECIPE, run)
    own = getattr(network, "inner", network).state_dict()
    losses = {"losses": torch.tensor([row.train_loss for row in found.history])}
    return {name: tensor.numpy() for name, tensor in {**own, **losses}.items()}


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def test_gradients_of_halves_are_added() -> None:
    expected = trained(tiny_net(norm=False))
    with pytest.warns(FilterSurgeonWarning) as told:
        found = trained(Limited(4, tiny_net(norm=False)))
    assert str(told[0].message) == (
        "out of memory with batch size 8; continuing with batch size 4, whose gradients are added"
    )
    assert_close(found, expected)


@HALVED
def test_a_window_that_runs_out_of_memory_begins_again() -> None:
    run = replace(RUN, accumulate=3)
    expected = trained(tiny_net(norm=False), run)
    network = Limited(8, tiny_net(norm=False))
    forward, calls = network.inner.forward, []

    def fill_up(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        if len(calls) == 2:  # the second batch of a window
            run_out()
        return forward(x)

    network.inner.forward = fill_up
    assert_close(trained(network, run), expected)
    assert calls[:6] == [8, 8, 4, 4, 4, 4]


@HALVED
def test_what_a_failed_step_left_behind_is_undone() -> None:
    """Running statistics and gradients of the pass that ran out of memory do not count."""
    early, late = Limited(4, Only(tiny_net())), LimitedBackward(4, tiny_net())
    expected = trained(early)
    assert_close(trained(late), {k.removeprefix("net."): v for k, v in expected.items()})
    assert late.sizes[:5] == [8, 4, 4, 4, 4]


class Only(nn.Module):
    """The same network as the one whose gradients run out of memory."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net.head(functional.relu(self.net.norm(self.net.stem(x))).mean((2, 3)))


def test_batch_norm_needs_two_images() -> None:
    with (
        pytest.warns(FilterSurgeonWarning, match="batch norm takes statistics of so many images"),
        pytest.raises(OutOfMemoryError, match="batch size 2; use a smaller input size"),
    ):
        trained(Limited(1, tiny_net()))


@pytest.mark.parametrize("gradient", [False, True])
def test_saliency_of_a_minibatch_is_that_of_its_halves(gradient: bool) -> None:
    settings = SaliencySettings(8, gradient, device="cpu")
    whole = list(saliency(tiny_net().eval(), stripes(12), {"stem": "stem.weight"}, settings))
    network = Limited(3).eval()
    with pytest.warns(FilterSurgeonWarning, match="with batch size 2, whose gradients are added"):
        found = list(saliency(network, stripes(12), {"stem": "inner.stem.weight"}, settings))
    assert [count for count, _ in found] == [8, 4]
    for (_, one), (_, other) in zip(whole, found, strict=True):
        np.testing.assert_allclose(other["stem"], one["stem"], rtol=1e-4, atol=1e-7)
    with pytest.raises(OutOfMemoryError):
        next(iter(saliency(Limited(3).train(), stripes(12), {}, settings)))


class Small(nn.Module):
    """A network that can be cut, and fits so many images at once."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.point = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > LIMIT["images"]:
            run_out()
        x = functional.relu(self.norm(self.one(x)))
        x = functional.relu(self.point(functional.relu(self.two(x))))
        return self.head(x.mean((2, 3)))


LIMIT = {"images": 1000}


@functools.cache
def checkpoint() -> fs.Checkpoint:
    torch.manual_seed(0)
    network = Small()
    network(torch.randn(32, 3, 8, 8))
    return open_module(network.eval(), (3, 8, 8))


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    return noise_images(8)


def halved(**options) -> dict[str, np.ndarray]:
    how = {"sparsity": 0.5, "per_layer": True, "method": "l2", "data": images()}
    return arrays(fs.prune(checkpoint(), **how, **options))


VERBS = {
    "batchnorm": lambda: halved(compensate="batchnorm"),
    "least-squares": lambda: halved(compensate="least-squares"),
    "replace": lambda: arrays(
        fs.replace(
            checkpoint(), bank="dog8", all_spatial=True, compensate="batchnorm", data=images()
        )
    ),
    "maximize": lambda: {
        found.layer: found.images
        for found in fs.maximize(checkpoint(), fs.AscentSettings(steps=2), layers=["two"])
    },
    "gradcam": lambda: {"maps": fs.gradcam([checkpoint()], data=images()[0]).looks[0].maps},
    "activations": lambda: {
        "maps": fs.activations([checkpoint()], data=images()[0], layers=["two"]).layers[0].maps[0]
    },
    "embed": lambda: {"points": fs.embed([checkpoint()], images(), "pca").clouds[0].points},
    "decode": lambda: {
        "error": np.array(
            fs.decode(checkpoint(), fs.DecodeSettings(["two"], "0,3"), data=images())[0].fit.error
        )
    },
}  # fmt: skip
ROUGH = {"batchnorm": 0.2, "replace": 0.2, "least-squares": 0.5}
"""Statistics and positions are taken of each batch by itself."""


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_halves_a_batch_that_does_not_fit(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = VERBS[verb]()
    monkeypatch.setitem(LIMIT, "images", 7)
    with pytest.warns(FilterSurgeonWarning, match="out of memory with batch size"):
        found = VERBS[verb]()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        size = np.abs(values).max()
        rough = ROUGH.get(verb, 1e-4)
        np.testing.assert_allclose(found[name], values, atol=rough * size + 1e-5, err_msg=name)


def test_units_that_do_not_fit_side_by_side_are_decoded_in_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = fs.DecodeSettings(["two"], "0-10")
    (expected,) = fs.decode(checkpoint(), settings)
    monkeypatch.setitem(LIMIT, "images", 5)
    with pytest.warns(FilterSurgeonWarning, match="8 units side by side; continuing with 4"):
        (found,) = fs.decode(checkpoint(), settings)
    assert found.units == expected.units
    np.testing.assert_allclose(found.filters, expected.filters, atol=1e-6)


PRUNED = {
    "target": lambda: fs.prune(checkpoint(), target="macs=0.6x", data=images()),
    "sequential": lambda: fs.prune(
        checkpoint(), sparsity=0.5, per_layer=True, method="l2", compensate="sequential",
        data=images(),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("verb", "share"), [("target", 0.0), ("target", 0.9), ("sequential", 0.5)])
def test_pruning_begins_again_with_half_a_batch(
    verb: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = Program.run, []
    limit = len(images()[0]), 10**9

    def run(self, values, *more, **options):
        sizes.append(len(values[min(values)]))
        if sizes[-1] > limit[0] and len(sizes) > limit[1]:
            run_out()
        return real(self, values, *more, **options)

    monkeypatch.setattr(Program, "run", run)
    PRUNED[verb]()
    limit = 12, int(share * len(sizes))
    sizes.clear()
    with pytest.warns(FilterSurgeonWarning, match="continuing with batch size 9"):
        found = PRUNED[verb]()
    assert max(sizes) > 12 >= sizes[-1]
    assert found["one.weight"].shape[0] < 16


def test_layers_that_do_not_fit_side_by_side_go_in_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch_search.alternate_layers

    def alternate(layers, *more):
        if len(layers.A) > 2:
            run_out()
        return real(layers, *more)

    rng = np.random.default_rng(4)
    filters = [rng.standard_normal((12, 5)) for _ in range(3)]
    how = {"n_init": 1, "max_iter": 3, "device": "cpu"}
    expected = archetypal_analysis_batch(filters, 3, **how)
    monkeypatch.setattr(torch_search, "alternate_layers", alternate)
    with pytest.warns(FilterSurgeonWarning, match="with 3 layers side by side; continuing with 1"):
        found = archetypal_analysis_batch(filters, 3, **how)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other.coefficients, one.coefficients, atol=1e-9)


@HALVED
def test_what_ran_out_of_memory_is_let_go() -> None:
    alive = []

    def work(size: int) -> int:
        kept = torch.ones(size)
        alive.append(__import__("weakref").ref(kept))
        if size > 3:
            run_out()
        return size

    assert FittingBatches(8).repeat(work) == 2
    assert [each() for each in alive] == [None, None, None]


def test_other_failures_are_not_taken_for_full_memory() -> None:
    def work(size: int) -> int:
        raise RuntimeError(f"no {size}")

    with pytest.raises(RuntimeError, match="no 8"):
        FittingBatches(8).repeat(work)
