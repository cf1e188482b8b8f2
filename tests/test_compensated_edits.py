"""Weights replaced in place, and the network adapted to them on images."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import filtersurgeon as fs
from filtersurgeon.banks.closest import closest_linear, unit_bank
from filtersurgeon.banks.closest_outputs import closest_outputs
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.pruning.compensation.statistics import Statistics, match, match_statistics

_DRAW = torch.Generator().manual_seed(1)
IMAGES = torch.randn(32, 3, 12, 12, generator=_DRAW) + 2 * torch.randn(32, 3, 1, 1, generator=_DRAW)
EDITS = {
    "replace": {"bank": "dog8", "fit": "weights"},
    "fabricate": {"archetypes": 0.25},
    "initialize": {"method": "ghaar"},
}


class Separable(nn.Module):
    """A depthwise convolution between pointwise ones, and a linear head."""

    def __init__(self, norm: type[nn.Module] = nn.BatchNorm2d) -> None:
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(3, 16, 1, bias=False), norm(16)
        self.spatial, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), norm(16)
        self.project, self.norm3 = nn.Conv2d(16, 8, 1, bias=False), norm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm1(self.expand(x)))
        x = torch.relu(self.norm2(self.spatial(x)))
        return self.head(torch.relu(self.norm3(self.project(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    network = Separable().train()
    with torch.no_grad():
        for _ in range(60):  # until the running statistics are those of the images
            network(IMAGES)
    return network.eval()


def _data() -> fs.ImageRun:
    return fs.ImageRun(IMAGES, {"mean": (0, 0, 0), "std": (1, 1, 1), "input_size": (3, 12, 12)})


def _projected(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        x = torch.relu(network.norm1(network.expand(IMAGES)))
        return network.project(torch.relu(network.norm2(network.spatial(x))))


def _difference(before: nn.Module, after: nn.Module, norm: bool = True) -> float:
    """Give how far what the pointwise layer makes is from what it made, relative to its spread."""
    wanted, found = _projected(before), _projected(after)
    if norm:
        wanted, found = before.norm3(wanted), after.norm3(found)
    spread = wanted - wanted.mean((0, 2, 3), keepdim=True)
    return float(((wanted - found).norm() / spread.norm()).detach())


def _normalised(network: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return network.norm2(network.spatial(torch.relu(network.norm1(network.expand(IMAGES)))))


@pytest.mark.parametrize("verb", EDITS)
def test_normalisations_give_the_means_and_variances_that_they_gave(network, verb):
    # Its statistics are others than those of the images, as after training on many more.
    network = deepcopy(network)
    network.norm2.running_mean.add_(0.3)
    network.norm2.running_var.mul_(1.5)
    edit = getattr(fs, verb)
    after = edit(network, (3, 12, 12), **EDITS[verb], compensate="batchnorm", data=_data())
    plain = edit(network, (3, 12, 12), **EDITS[verb])
    assert torch.equal(after.spatial.weight, plain.spatial.weight)
    wanted, found, stale = _normalised(network), _normalised(after), _normalised(plain)
    for moment in (torch.mean, torch.var):
        assert torch.allclose(
            moment(found, (0, 2, 3)), moment(wanted, (0, 2, 3)), rtol=1e-3, atol=1e-4
        )
    assert not torch.allclose(stale.var((0, 2, 3)), wanted.var((0, 2, 3)), rtol=0.05)


def test_statistics_of_what_has_not_changed_stay():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    network[1].running_mean.uniform_(-1, 1)
    network[3].running_var.uniform_(1, 2)
    found = match(network.eval(), deepcopy(network), IMAGES.split(10))
    for name, statistic in found.items():
        assert torch.allclose(statistic, network.get_buffer(name), rtol=1e-6, atol=1e-7)


def test_statistics_are_matched_front_to_back_on_several_batches():
    """A chain of scaled and shifted layers makes again what it made, exactly."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 1), nn.BatchNorm2d(5)
    ).eval()
    changed = deepcopy(network)
    with torch.no_grad():
        for layer in (changed[0], changed[3]):
            layer.weight.mul_(torch.rand(len(layer.weight), 1, 1, 1) + 0.5)
            layer.bias.add_(1.0)
        match(network, changed, IMAGES.split(12))
        assert torch.allclose(changed(IMAGES), network(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_channel_that_is_constant_keeps_its_scale():
    running = Statistics(torch.tensor([1.0, 1.0]).double(), torch.tensor([4.0, 4.0]).double())
    before = Statistics(torch.tensor([2.0, 2.0]).double(), torch.tensor([0.0, 9.0]).double())
    now = Statistics(torch.tensor([5.0, 5.0]).double(), torch.tensor([3.0, 1.0]).double())
    found = match_statistics(running, before, now, 0.0)
    # (x - mean) / root(variance): 5 must give (2 - 1) / 2 in both.
    assert found.variance.tolist() == pytest.approx([4.0, 4.0 / 9])
    assert found.mean.tolist() == pytest.approx([4.0, 5.0 - 1.0 / 3])


def test_outputs_are_fitted_by_default_where_images_are_given(network):
    def replaced(**words) -> torch.Tensor:
        after = fs.replace(network, (3, 12, 12), bank="dog8", **words)
        return after.spatial.weight

    images = {"compensate": "batchnorm", "data": _data()}
    assert torch.equal(replaced(**images), replaced(**images, fit="outputs"))
    assert torch.equal(replaced(), replaced(fit="weights"))
    assert not torch.equal(replaced(), replaced(**images))


@pytest.mark.parametrize("fit", ["weights", "outputs"])
def test_layers_are_reported_when_they_are_computed_at_once(network, fit):
    told = []
    fs.replace(
        network, (3, 12, 12), bank="dog8", fit=fit, compensate="batchnorm", data=_data(),
        observe=told.append,
    )  # fmt: skip
    assert [(layer.name, layer.n_kernels) for layer in told] == [("spatial", 16)]


def test_layers_whose_weights_are_computed_are_fitted_by_weights():
    class Scaled(Separable):
        def forward(self, x):
            x = torch.relu(self.norm1(self.expand(x)))
            x = nn.functional.conv2d(x, self.spatial.weight * 2, padding=1, groups=16)
            return self.head(torch.relu(self.norm3(self.project(self.norm2(x)))).mean((2, 3)))

    network = Scaled().eval()
    with pytest.raises(LayerError, match="spatial is not called"):
        fs.replace(
            network, (3, 12, 12), bank="dog8", fit="outputs", compensate="batchnorm", data=_data()
        )
    after = fs.replace(network, (3, 12, 12), bank="dog8", compensate="batchnorm", data=_data())
    plain = fs.replace(network, (3, 12, 12), bank="dog8")
    assert torch.equal(after.spatial.weight, plain.spatial.weight)


@pytest.mark.parametrize("verb", EDITS)
def test_refitted_layers_make_more_nearly_what_they_made(network, verb):
    def difference(kind: str) -> float:
        data = None if kind == "none" else _data()
        edit = getattr(fs, verb)
        return _difference(
            network, edit(network, (3, 12, 12), **EDITS[verb], compensate=kind, data=data)
        )

    assert difference("least-squares") < 0.95 * difference("batchnorm")


def test_nothing_to_make_up_for_changes_nothing(network):
    kernels = network.spatial.weight.detach().flatten(1).numpy().reshape(-1, 3, 3)
    bank = fs.FilterBank("own", kernels, tuple(map(str, range(len(kernels)))))
    after = fs.replace(network, (3, 12, 12), bank=bank, compensate="least-squares", data=_data())
    assert _difference(network, after) < 1e-3


def test_the_history_names_the_images_and_the_way(tmp_path):
    checkpoint = fs.untrained("timm:test_resnet")
    images = torch.rand(8, 3, 160, 160)
    after = fs.replace(
        checkpoint, bank="dog8", all_spatial=True, compensate="batchnorm", data=images, seed=3
    )
    last = after.history[-1]
    assert last.options["compensate"] == "batchnorm"
    assert last.options["seed"] == 3
    assert last.data
    assert len(after.history) == 1
    fs.save(after, tmp_path / "m.safetensors")
    again = fs.load(tmp_path / "m.safetensors")
    name = "conv1.1.running_var"
    assert not np.allclose(again[name].array(), checkpoint[name].array())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"compensate": "batchnorm"}, "needs images"),
        ({"data": IMAGES}, "add `compensate`"),
        ({"compensate": "bachnorm", "data": IMAGES}, "batchnorm"),
        ({"fit": "outputs"}, "needs images"),
        ({"fit": "output", "data": IMAGES}, "outputs"),
    ],
)
def test_words_that_do_not_go_together_are_refused(network, words, said):
    with pytest.raises(OptionError, match=said):
        fs.replace(network, (3, 12, 12), bank="dog8", **words)


def test_a_network_without_statistics_is_refused():
    network = Separable(lambda width: nn.GroupNorm(2, width)).eval()
    with pytest.raises(LayerError, match="least-squares"):
        fs.replace(network, (3, 12, 12), bank="dog8", compensate="batchnorm", data=_data())
    before = _difference(network, fs.replace(network, (3, 12, 12), bank="dog8"), norm=False)
    after = fs.replace(network, (3, 12, 12), bank="dog8", compensate="least-squares", data=_data())
    assert _difference(network, after, norm=False) < 0.95 * before


def test_white_inputs_fit_as_weights_do():
    rng = np.random.default_rng(0)
    kernels, unit = rng.normal(size=(20, 9)), unit_bank(rng.normal(size=(5, 9)))
    found = closest_outputs(kernels, unit, np.eye(9)[None], np.zeros(20, int))
    wanted = closest_linear(kernels, unit)
    assert np.array_equal(found.choice, wanted.choice)
    np.testing.assert_allclose(found.kernels, wanted.kernels, atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_fitted_as_by_least_squares_on_them(bias):
    rng = np.random.default_rng(1)
    kernels, unit = rng.normal(size=(6, 9)), unit_bank(rng.normal(size=(4, 9)), bias)
    inputs = rng.normal(size=(2, 400, 9)) @ rng.normal(size=(2, 9, 9))
    moments, owner = np.einsum("cnm,cnk->cmk", inputs, inputs) / 400, np.arange(6) // 3
    found = closest_outputs(kernels, unit, moments, owner, bias)
    for kernel, channel, made in zip(kernels, owner, found.kernels, strict=True):
        x = inputs[channel]
        errors = []
        for g in unit:
            basis = np.stack([x @ g, x.sum(1)] if bias else [x @ g], 1)
            errors.append(np.linalg.lstsq(basis, x @ kernel, rcond=None)[1].sum())
        assert np.square(x @ (kernel - made)).sum() <= min(errors) * (1 + 1e-3)


def test_outputs_fitted_are_closer_than_those_of_fitted_weights(network):
    smooth = nn.functional.avg_pool2d(IMAGES, 3, 1, 1) + 1
    run = fs.ImageRun(smooth, {"mean": (0, 0, 0), "std": (1, 1, 1), "input_size": (3, 12, 12)})

    def error(**words) -> float:
        after = fs.replace(network, (3, 12, 12), bank="dog8", **words)
        with torch.no_grad():
            seen = torch.relu(network.norm1(network.expand(smooth)))
            return float((after.spatial(seen) - network.spatial(seen)).norm())

    assert error(fit="outputs", data=run) < 0.9 * error()


def test_a_search_adapts_the_network_to_every_candidate(tmp_path, fsurgeon):
    fs.save(fs.untrained("timm:test_resnet"), tmp_path / "m.safetensors")
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "images.npz",
        x=rng.integers(0, 255, (12, 32, 32, 3), np.uint8),
        y=np.arange(12),
    )
    done = fsurgeon(
        "bank", "search", tmp_path / "m.safetensors", "--arch", "timm:test_resnet", "--bank",
        "dog8", "--to", "7", "--all-spatial", "--layers", "conv1.0", "--data",
        tmp_path / "images.npz", "--labels", "indices", "--compensate", "batchnorm", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [step["size"] for step in json.loads(done.stdout)["steps"]] == [8, 7]
