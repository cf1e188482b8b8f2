"""Compensations: exact where they must be, and equal to independent formulas elsewhere."""

import numpy as np
import pytest
import torch
from learning import CIFAR_CFG, needs_shared, stripes
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.data.data import DataSpec, ImageRun
from filtersurgeon.errors import OptionError
from filtersurgeon.graph.graph import channel_graph
from filtersurgeon.graph.opened_model import OpenedModel
from filtersurgeon.graph.slim import zero_removed
from filtersurgeon.pruning.compensation import fits
from filtersurgeon.pruning.compensation.calibration import Calibration
from filtersurgeon.pruning.compensation.compensate import apply_compensation
from filtersurgeon.pruning.compensation.second_moments import occurrences
from filtersurgeon.registry import COMPENSATIONS

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Chain(nn.Module):
    """Convolution, what lies between, a convolution without border, flatten, linear."""

    def __init__(self, between: nn.Module, groups: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.between = between
        self.second = nn.Conv2d(8, 6, 3, stride=2, groups=groups)
        self.head = nn.Linear(6 * 9, 2)

    def forward(self, x):
        return self.head(self.second(self.between(self.first(x))).flatten(1))


class Joined(nn.Module):
    """Two readers, one of them behind a concatenation and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.other = nn.Conv2d(3, 4, 1)
        self.left = nn.Conv2d(8, 2, 1)
        self.head = nn.Linear(12 * 64, 2)

    def forward(self, x):
        made = torch.relu(self.first(x))
        joined = torch.cat([self.other(x), made], 1)
        return self.head(joined.flatten(1)) + self.left(made).mean((2, 3))


def normalised() -> nn.Module:
    norm = nn.BatchNorm2d(8)
    for vector in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        vector.uniform_(0.5, 1.5)
    return norm


def seeded(make, *arguments, **options) -> nn.Module:
    torch.manual_seed(0)
    return make(*arguments, **options).eval()


def opened(network: nn.Module) -> OpenedModel:
    image = torch.empty(1, 3, 8, 8, device="meta")
    return OpenedModel(None, network, channel_graph(network, image), frozenset())


def without(subject: OpenedModel, tensor: str, *channels: int) -> np.ndarray:
    """Give the mask that leaves all groups but those of some filters."""
    left = np.ones(len(subject.graph.groups), bool)
    ids = subject.graph.trace.slots[tensor][0]
    left[subject.graph.groups.of[ids[list(channels)]]] = False
    return left


def cut_outputs(subject: OpenedModel, left: np.ndarray, changed=None) -> torch.Tensor:
    with torch.no_grad():
        return functional_call(
            subject.network, zero_removed(subject, left, changed or {}), (IMAGES,)
        )


def calibration(count: int = 48) -> Calibration:
    return Calibration(stripes(count), 0, torch.device("cpu"), seed=0)


def pixels(count: int = 48) -> torch.Tensor:
    return torch.stack([image for image, _ in stripes(count)])


def run(
    kind: str, subject: OpenedModel, left: np.ndarray, images: Calibration | None = None
) -> dict:
    return COMPENSATIONS.function(kind)(subject, left, {}, *([images] if images else []))


# The contract


@pytest.mark.parametrize("kind", COMPENSATIONS.names())
def test_a_compensation_is_documented_and_changes_no_input(kind):
    assert "Source:" in COMPENSATIONS.function(kind).__doc__
    subject = opened(seeded(Chain, nn.Sequential(normalised(), nn.ReLU())))
    left = without(subject, "first.weight", 1, 4)
    before = {k: v.clone() for k, v in subject.network.state_dict().items()}
    images = calibration() if "images" in COMPENSATIONS.inputs(kind) else None
    once, again = run(kind, subject, left, images), run(kind, subject, left, images)
    assert once
    for name, tensor in once.items():
        assert tensor.shape == before[name].shape
        assert tensor.dtype == before[name].dtype
        assert tensor.isfinite().all()
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, before[name])
    after = subject.network.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("kind", COMPENSATIONS.names())
def test_nothing_removed_changes_no_weight(kind):
    subject = opened(seeded(Chain, nn.ReLU()))
    images = calibration() if "images" in COMPENSATIONS.inputs(kind) else None
    assert run(kind, subject, np.ones(len(subject.graph.groups), bool), images) == {}


# Merging


def _copy_filter(network: nn.Module, source: int, target: int, *layers: str) -> None:
    with torch.no_grad():
        for name in layers:
            module = network.get_submodule(name)
            vectors = (module.weight, module.bias, *module.buffers())
            for vector in (v for v in vectors if v is not None and v.ndim):
                vector[target] = vector[source]


@pytest.mark.parametrize(
    ("between", "copied"),
    [
        (lambda: nn.ReLU(), ("first",)),
        (lambda: nn.Sequential(normalised(), nn.ReLU6()), ("first", "between.0")),
        (
            lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.SiLU()),
            ("first", "between.1"),
        ),
    ],
)  # fmt: skip
def test_a_copy_of_a_kept_filter_is_not_missed(between, copied):
    network = seeded(lambda: Chain(between()))
    _copy_filter(network, 2, 5, *copied)
    subject = opened(network)
    left = without(subject, "first.weight", 5)
    whole = cut_outputs(subject, left | True)
    torch.testing.assert_close(cut_outputs(subject, left, run("merge", subject, left)), whole)
    assert (cut_outputs(subject, left) - whole).abs().max() > 1e-3


def test_a_depthwise_kernel_of_its_own_breaks_the_likeness():
    """Copies that go through different kernels make different values."""
    dw = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    network = seeded(lambda: Chain(dw))
    _copy_filter(network, 2, 5, "first")
    with torch.no_grad():
        dw.weight[:] = 0
        dw.weight[range(8), 0, [0, 1, 2, 0, 1, 2, 0, 1], [0, 0, 0, 1, 1, 1, 2, 2]] = 1
        dw.bias[:] = 0
        network.first.bias[:] = 0
    subject = opened(network)
    left = without(subject, "first.weight", 5)
    before = network.second.weight[:, 2]
    after = run("merge", subject, left)["second.weight"][:, 2]
    torch.testing.assert_close(after, before)


def test_every_reader_of_a_copy_takes_over():
    network = seeded(Joined)
    _copy_filter(network, 0, 7, "first")
    subject = opened(network)
    left = without(subject, "first.weight", 7)
    changed = run("merge", subject, left)
    assert set(changed) == {"left.weight", "head.weight"}
    torch.testing.assert_close(
        cut_outputs(subject, left, changed), cut_outputs(subject, left | True)
    )


def test_a_convex_combination_is_handed_to_its_parts():
    """Without an activation, a mixture of kept filters is not missed."""
    network = seeded(Chain, nn.Identity())
    with torch.no_grad():
        for vector in (network.first.weight, network.first.bias):
            vector[6] = 0.25 * vector[1] + 0.75 * vector[3]
    subject = opened(network)
    left = without(subject, "first.weight", 6)
    changed = run("merge", subject, left)["second.weight"] - network.second.weight
    removed = network.second.weight[:, 6]
    torch.testing.assert_close(changed[:, 1], 0.25 * removed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(changed[:, 3], 0.75 * removed, rtol=1e-4, atol=1e-5)
    assert changed[:, [0, 2, 4, 5, 7]].abs().max() < 1e-5


def test_occurrences_are_told_in_order():
    members = np.array([3, 3, -1, 5, 5, 3, 5])
    assert occurrences(members, np.array([3, 5])).tolist() == [[0, 3], [1, 4], [5, 6]]
    assert occurrences(members, np.array([3, 4])) is None
    assert len(occurrences(members, np.array([7, 8]))) == 0


# Least squares


def test_a_refit_is_the_ridge_regression_of_all_patches():
    network = seeded(Chain, nn.ReLU())
    subject = opened(network)
    left = without(subject, "first.weight", 0, 3)
    changed = run("least-squares", subject, left, calibration())
    kept = [1, 2, 4, 5, 6, 7]
    with torch.no_grad():
        seen = torch.relu(network.first(pixels())).double()
        patches = functional.unfold(seen, 3, stride=2).transpose(1, 2).reshape(-1, 8, 9)
        made = network.second(seen.float()).double().flatten(2).transpose(1, 2).reshape(-1, 6)
    X = patches[:, kept].flatten(1).numpy()
    prior = network.second.weight[:, kept].detach().double().flatten(1).numpy()
    X0 = X - X.mean(0)
    penalty = fits.RIDGE * (X0**2).sum(0).mean()
    rows = np.vstack([X0, np.sqrt(penalty) * np.eye(X.shape[1])])
    y = (made - made.mean(0)).numpy()
    expected = np.linalg.lstsq(rows, np.vstack([y, np.sqrt(penalty) * prior.T]), rcond=None)[0].T
    found = changed["second.weight"][:, kept].flatten(1).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)
    constant = made.mean(0).numpy() - expected @ X.mean(0)
    np.testing.assert_allclose(changed["second.bias"].numpy(), constant, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "largest"),
    [
        (Joined, 0),
        (lambda: Chain(nn.Identity(), groups=2), 0),
        (lambda: Chain(nn.Identity(), groups=2), fits.LARGEST),
        (lambda: Chain(nn.LeakyReLU()), fits.LARGEST),
    ],
)
def test_a_linear_combination_is_not_missed(network, largest, monkeypatch):
    """Neither with models of patches nor of channels, behind a flatten, nor in groups."""
    monkeypatch.setattr("filtersurgeon.pruning.compensation.fits.LARGEST", largest)
    monkeypatch.setattr("filtersurgeon.pruning.compensation.fits.RIDGE", 1e-9)
    made = seeded(network)
    with torch.no_grad():
        # Equal places of two groups of four, for these go together.
        made.first.weight[1], made.first.bias[1] = made.first.weight[0] * 2, made.first.bias[0] * 2
        made.first.weight[5], made.first.bias[5] = made.first.weight[7], made.first.bias[7]
    subject = opened(made)
    left = without(subject, "first.weight", 1, 5)
    whole = cut_outputs(subject, left | True)
    changed = run("least-squares", subject, left, calibration(96))
    assert (cut_outputs(subject, left) - whole).abs().max() > 1e-2
    torch.testing.assert_close(cut_outputs(subject, left, changed), whole, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("norm", [True, False])
def test_a_constant_channel_goes_into_the_bias_or_the_running_mean(norm):
    network = seeded(Chain, nn.ReLU())
    with torch.no_grad():
        network.first.weight[4] = 0
        network.first.bias[4] = 3.0
    if norm:
        network.second = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, bias=False), normalised())
        network.head = nn.Linear(8 * 9, 2)
    subject = opened(network.eval())
    left = without(subject, "first.weight", 4)
    changed = run("least-squares", subject, left, calibration())
    assert ("second.1.running_mean" if norm else "second.bias") in changed
    torch.testing.assert_close(
        cut_outputs(subject, left, changed), cut_outputs(subject, left | True), rtol=1e-3, atol=1e-3
    )


# Statistics


def test_statistics_are_the_means_over_batches():
    network = seeded(Chain, nn.Sequential(normalised(), nn.ReLU()))
    subject = opened(network)
    left = without(subject, "first.weight", 2)
    changed = run("batchnorm", subject, left, calibration(64))
    assert set(changed) == {"between.0.running_mean", "between.0.running_var"}
    with torch.no_grad():
        halves = [network.first(part).numpy() for part in pixels(64).split(32)]
    kept = [0, 1, 3, 4, 5, 6, 7]
    mean = np.mean([half.mean((0, 2, 3)) for half in halves], 0)
    var = np.mean([half.var((0, 2, 3), ddof=1) for half in halves], 0)
    np.testing.assert_allclose(changed["between.0.running_mean"][kept], mean[kept], rtol=1e-4)
    np.testing.assert_allclose(changed["between.0.running_var"][kept], var[kept], rtol=1e-4)


# The door


def test_images_are_asked_for_before_any_work(refuse, tmp_path):
    zoo = "examples/zoo/lenet5_mnist.safetensors"
    words = ("prune", zoo, "--factory", "examples.zoo.networks:lenet5", "-s", "0.3", "--per-layer",
             "-o", tmp_path / "x.safetensors", "--compensate")  # fmt: skip
    assert "--data" in refuse(*words, "least-squares")
    assert "least-squares" in refuse(*words, "least-square")
    with pytest.raises(OptionError, match="looks at images"):
        apply_compensation("batchnorm", opened(seeded(Joined)), np.ones(1, bool), {})


def test_what_does_not_go_together():
    checkpoint = fs.load(
        "examples/zoo/lenet5_mnist.safetensors", arch="factory:examples.zoo.networks:lenet5"
    )
    for options in ({"mode": "exact"}, {"fill": "fillzero"}):
        with pytest.raises(OptionError, match="compensate"):
            fs.prune(checkpoint, sparsity=0.5, compensate="merge", **options)
    with pytest.raises(OptionError, match="uses no images"):
        fs.prune(checkpoint, sparsity=0.3, per_layer=True, method="l2", compensate="merge",
                 data="nowhere.npz")  # fmt: skip


@needs_shared
@pytest.mark.slow
def test_refitting_regains_accuracy_on_a_real_network(shared_data):
    """At 30 % of every layer, ResNet-20 keeps clearly more, and history tells how."""
    path = str(shared_data / "weights" / "cifar10_resnet20.safetensors")
    checkpoint = fs.load(path, arch="factory:examples.zoo.networks:cifar_resnet20")
    train = DataSpec(str(shared_data / "cifar10" / "train_10k.npz"), "train", subset=256)
    test = DataSpec(str(shared_data / "cifar10" / "test.npz"), subset=500)
    right = {}
    for kind in ("none", "least-squares"):
        images = ImageRun(train, CIFAR_CFG) if kind != "none" else None
        pruned = fs.prune(
            checkpoint, sparsity=0.3, per_layer=True, method="l2", compensate=kind, data=images
        )
        said = pruned.history[-1].options.get("compensate")
        assert said == (None if kind == "none" else kind)
        right[kind] = fs.evaluate(pruned, test, preprocess=CIFAR_CFG).accuracy
    assert right["least-squares"] > right["none"] + 0.1
