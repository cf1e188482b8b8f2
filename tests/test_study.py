"""Studies: what they remove, count and conclude, against independent computations."""

import inspect
import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from learning import TinyNet, needs_shared, tiny_net
from safetensors.numpy import load_file, save_file
from scipy import stats

import filtersurgeon as fs
from examples.zoo import networks, train
from filtersurgeon.data.data import DataSpec, ImageRun, open_data
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.graph.follow import normalisations
from filtersurgeon.graph.graph import run_trace
from filtersurgeon.learn.evaluation import (
    Evaluation,
    mean_accuracy,
    mean_difference,
    student_interval,
)
from filtersurgeon.learn.jobs import JobSettings
from filtersurgeon.learn.networks import open_network
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart
from filtersurgeon.ranking.methods.saliency import saliency_of_noise
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies import memorisation as memorisation_file
from filtersurgeon.studies import position as position_file
from filtersurgeon.studies._lab import Lab
from filtersurgeon.studies.position import remove_filters
from filtersurgeon.studies.storage import stored_bytes

ZOO = "examples/zoo/lenet5_digits.safetensors"
FACTORY = "factory:examples.zoo.networks:lenet5"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The 360 test images of scikit-learn's digits."""
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    train.write_digits(path)
    return path


@pytest.fixture
def lab(digits):
    checkpoint = fs.load(ZOO, arch=FACTORY)
    return Lab(checkpoint, ZOO, DataSpec(str(digits)))


def _evaluation(right: int, images: int) -> Evaluation:
    return Evaluation(images, right, images, 0.0, (images,), (right,), None, 1.0)


# The contract


@pytest.mark.parametrize("name", STUDIES.names())
def test_a_study_is_documented_with_its_source(name):
    text = inspect.getdoc(STUDIES.function(name))
    assert "Source:" in text
    assert "Returns:" in text
    for option in STUDIES.options(name).values():
        assert option.annotation in (bool, int, float, str)
        assert type(option.default) is option.annotation
        assert f"{option.name}:" in text


# Statistics


def test_students_interval_is_that_of_scipy():
    values = np.random.default_rng(0).random(7)
    found = student_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert student_interval([0.5]) == (0.5, 0.5, 0.5)


def test_an_accuracy_has_the_wider_interval():
    same = mean_accuracy([_evaluation(80, 100)] * 3)
    wilson = stats.binomtest(80, 100).proportion_ci(0.95, "wilson")
    assert same == pytest.approx((0.8, wilson.low, wilson.high))
    apart = mean_accuracy([_evaluation(right, 100) for right in (20, 50, 80)])
    assert apart == pytest.approx((0.5, 0.0, 1.0))
    close = mean_accuracy([_evaluation(right, 10_000) for right in (4000, 5000, 6000)])
    expected = stats.ttest_1samp([0.4, 0.5, 0.6], 0).confidence_interval(0.95)
    assert (close.low, close.high) == pytest.approx((expected.low, expected.high))
    assert str(same) == f"80.0 ±{100 * (0.8 - wilson.low):.1f}"


def test_a_difference_is_paired_and_never_surer_than_the_images_allow():
    first = [_evaluation(right, 10_000) for right in (5000, 6000, 7000)]
    second = [_evaluation(right, 10_000) for right in (4800, 5900, 6700)]
    found = mean_difference(first, second)
    expected = stats.ttest_1samp([0.02, 0.01, 0.03], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    one = mean_difference([_evaluation(90, 100)], [_evaluation(80, 100)])
    half = stats.norm.ppf(0.975) * np.sqrt((0.9 * 0.1 + 0.8 * 0.2) / 100)
    assert one == pytest.approx((0.1, 0.1 - half, 0.1 + half))


# Removing


def _normalisations(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.nn.Module]:
    return normalisations(model, run_trace(model, images[:1].to("meta")))


def test_normalisations_are_found_by_what_they_read():
    model = tiny_net().eval()
    assert _normalisations(model, torch.zeros(1, 3, 8, 8)) == {"stem": model.norm}
    assert _normalisations(tiny_net(norm=False), torch.zeros(1, 3, 8, 8)) == {}
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    block = networks.BasicBlock(4, 4, 1).eval()
    found = _normalisations(block, torch.zeros(1, 4, 8, 8))
    assert found == {"conv1": block.bn1, "conv2": block.bn2}


class _Masked(TinyNet):
    """The same network with channels zeroed after the normalisation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = torch.ones(8).index_fill(0, torch.tensor([1, 5]), 0)[:, None, None]
        x = torch.relu(self.norm(self.stem(x))) * mask
        x = torch.relu(self.pointwise(self.depthwise(x)))
        return self.head(x.mean((2, 3)))


def test_a_removed_channel_is_silent():
    whole = tiny_net().eval()
    with torch.no_grad():
        for parameter in whole.norm.parameters():
            parameter.uniform_(0.5, 1.5)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    masked = _Masked().eval()
    masked.load_state_dict(whole.state_dict())
    removed = {"stem": [1, 5]}
    constant = tiny_net().eval()
    constant.load_state_dict(whole.state_dict())
    remove_filters(constant, removed, {})
    remove_filters(whole, removed, _normalisations(whole, x))
    with torch.no_grad():
        torch.testing.assert_close(whole(x), masked(x))
        assert not torch.allclose(constant(x), masked(x))
        channels = constant.norm(constant.stem(x))[:, [1, 5]]
    assert torch.equal(channels, channels[..., :1, :1].expand_as(channels))
    for name, parameter in whole.named_parameters():
        kept = [0, 2, 3, 4, 6, 7]
        if name.startswith(("stem", "norm")):
            assert parameter[[1, 5]].count_nonzero() == 0
            assert parameter[kept].count_nonzero() == parameter[kept].numel()


# Position


def _right_without(digits, method, best_first: bool, share: float) -> int:
    """Count right answers with filters zeroed by hand; LeNet-5 has no normalisation."""
    tensors = load_file(ZOO)
    for name in ("conv1", "conv2"):
        rows = tensors[f"{name}.weight"].reshape(len(tensors[f"{name}.weight"]), -1)
        order = np.argsort(method(rows.astype(np.float64)), kind="stable")
        order = order[::-1] if best_first else order
        going = order[: round(share * len(rows))]
        tensors[f"{name}.weight"][going] = 0
        tensors[f"{name}.bias"][going] = 0
    model = networks.lenet5().eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    ready = open_network(fs.load(ZOO, arch=FACTORY))
    data = open_data(DataSpec(str(digits)), ready.preprocessing, 10)
    x, y = (torch.stack([torch.as_tensor(pair[k]) for pair in data]) for k in (0, 1))
    with torch.no_grad():
        return int((model(x).argmax(1) == y).sum())


def test_accuracy_without_the_smallest_and_the_largest_filters(lab, digits):
    options = {"criteria": "smallest-l1,largest-l1", "removed": "10,25", "repeats": 1}
    found = fs.study("position", lab, options).findings
    assert found["filters"] == [round(0.6) + round(1.6), round(1.5) + 4]
    for name, best_first in (("smallest-l1", False), ("largest-l1", True)):
        for point, share in zip(found["accuracy"][name], (0.1, 0.25), strict=True):
            right = _right_without(digits, lambda X: np.abs(X).sum(1), best_first, share)
            # A sum in another order may tip an image that lies on the fence.
            assert abs(round(360 * point["mean"]) - right) <= 1
    assert found["accuracy"]["largest-l1"] != found["accuracy"]["smallest-l1"]
    assert found["baseline"]["mean"] == pytest.approx(354 / 360, abs=1.1 / 360)


def test_what_draws_nothing_is_done_once(lab):
    seen = []
    counted = Lab(lab.checkpoint, lab.source, lab.data, progress=lambda *at: seen.append(at[1]))
    fs.study("position", counted, {"repeats": 3, "removed": "20"})
    # The whole network, the median and L1 once; archetypes and chance three times.
    assert set(seen) == {3 + 2 * 3}
    seen.clear()
    subset = DataSpec(lab.data.source, subset=50)
    fs.study(
        "position",
        Lab(lab.checkpoint, lab.source, subset, progress=counted.progress),
        {"repeats": 2, "removed": "20"},
    )
    assert set(seen) == {2 * 5}


def test_the_cache_answers_the_second_time_and_results_are_the_same(lab, tmp_path, monkeypatch):
    cached = Lab(lab.checkpoint, lab.source, lab.data, jobs=JobSettings(cache=str(tmp_path)))
    options = {"repeats": 2, "removed": "20", "criteria": "near-archetypes,near-median"}
    first = fs.study("position", cached, options).to_json()
    monkeypatch.setattr(position_file, "evaluate", None)
    assert fs.study("position", cached, options).to_json() == first
    with pytest.raises(TypeError):
        fs.study("position", lab, options)
    monkeypatch.undo()
    plain = fs.study("position", lab, options)
    assert plain.to_json() == first
    point = first["median_minus_archetypes"][0]
    means = [first["accuracy"][name][0]["mean"] for name in ("near-median", "near-archetypes")]
    assert point["mean"] == pytest.approx(means[0] - means[1])
    word = "as in" if point["low"] > 0 else "against" if point["high"] < 0 else "open"
    assert word in first["remarks"][0]


def test_layers_can_be_chosen(lab):
    one = Lab(lab.checkpoint, lab.source, lab.data, layers=["conv2"])
    options = {"criteria": "random", "removed": "50", "repeats": 1}
    assert fs.study("position", one, options).findings["filters"] == [8]
    assert fs.study("position", lab, options).findings["filters"] == [11]


@pytest.mark.parametrize(
    "options",
    [
        {"criteria": "near-archetype"}, {"removed": "0"}, {"removed": "100"}, {"removed": "much"},
        {"repeats": 0}, {"archetypes": 0.0}, {"number": 3},
    ],
)  # fmt: skip
def test_unusable_options(lab, options):
    with pytest.raises(OptionError):
        fs.study("position", lab, {"removed": "20", "repeats": 1, **options})


def test_what_is_missing_is_named(lab):
    with pytest.raises(OptionError, match="INPUT"):
        fs.study("position", Lab(data=lab.data))
    with pytest.raises(OptionError, match="INPUT"):
        fs.study("position", Lab(lab.checkpoint, "-", lab.data))
    with pytest.raises(OptionError, match="`data`"):
        fs.study("position", Lab(lab.checkpoint, ZOO))
    with pytest.raises(DataError):
        fs.study("position", Lab(lab.checkpoint, ZOO, DataSpec("nothing.npz")))


# Fabricated starts


@pytest.mark.parametrize("start", ["original", "fabricated", "random"])
def test_an_epoch_from_a_start_is_what_tune_does(digits, start):
    architecture = "factory:examples.zoo.networks:LeNet5"
    checkpoint = fs.load(ZOO, arch=architecture)
    lab = Lab(checkpoint, ZOO, DataSpec(str(digits), "test"), seed=4)
    options = {"starts": start, "epochs": 1, "repeats": 1, "train_subset": 64}
    found = fs.study("fabricate", lab, options).findings["accuracy"][start]
    begun = fs.fabricate(checkpoint, seed=4) if start == "fabricated" else checkpoint
    images = TrainingImages(
        DataSpec(str(digits), "train", subset=64, seed=4), DataSpec(str(digits), "test")
    )
    recipe = TrainingRecipe(optimizer="adam", lr=1e-4, weight_decay=0.0, schedule="none")
    run = RunSettings(1, 64, device="cpu", seed=4)
    _, result = fs.tune(begun, images, recipe, run, start=TrainingStart(scratch=start == "random"))
    assert [point["mean"] for point in found] == [row.accuracy for row in result.history]
    # The starts can be told apart: one step at this rate changes little.
    low, high = {"original": (0.9, 1), "fabricated": (0, 0.9), "random": (0, 0.5)}[start]
    assert low <= found[0]["mean"] <= high


def test_unusable_options_of_starts(lab):
    for options in ({"starts": "zero"}, {"epochs": 0}, {"repeats": 0}):
        with pytest.raises(OptionError):
            fs.study("fabricate", lab, options)


# Storage


def _vgg16() -> list[tuple[int, ...]]:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    return [(b, a, 3, 3) for a, b in pairwise(widths)]


def _resnet50() -> list[tuple[int, ...]]:
    shapes, width = [(64, 3, 7, 7)], 64
    for n, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        shapes += [(4 * n, width, 1, 1)]
        for _ in range(blocks):
            shapes += [(n, width, 1, 1), (n, n, 3, 3), (4 * n, n, 1, 1)]
            width = 4 * n
    return shapes


def test_storage_is_arithmetic():
    rows = {(r["network"], r["packed"]): r for r in fs.study("storage", Lab()).findings["rows"]}
    # Parameters as published; running means and variances beside them.
    for network, convolutions, parameters in (
        ("vgg16", _vgg16(), 138_357_544),
        ("resnet50", _resnet50(), 25_557_032 + 53_120),
    ):
        weights = sum(np.prod(shape) for shape in convolutions)
        row = rows[network, "all convolutions"]
        assert row["mib"] == pytest.approx(4 * parameters / 2**20)
        assert row["saved"] == pytest.approx(100 * 0.75 * weights / parameters)
    # What the paper states, 65.25 and 7.38 %, and what of it parameter counts decide.
    saved = {key: row["saved"] for key, row in rows.items()}
    assert saved["resnet50", "all convolutions"] == pytest.approx(68.69, abs=0.01)
    assert saved["vgg16", "all convolutions"] == pytest.approx(7.97, abs=0.01)
    assert saved["resnet50", "without 1x1"] == pytest.approx(33.17, abs=0.01)
    for network in ("resnet50", "vgg16"):
        row = rows[network, "all convolutions"]
        assert 3 < row["paper_after"] - row["packed_mib"] < 4


def test_storage_is_what_packing_takes(tmp_path):
    rng = np.random.default_rng(0)
    shapes = {"a.weight": (30, 8, 3, 3), "b.weight": (20, 30, 1, 1), "c.weight": (10, 20)}
    save_file(
        {k: rng.standard_normal(shape).astype("f4") for k, shape in shapes.items()},
        tmp_path / "m.safetensors",
    )
    checkpoint = fs.load(tmp_path / "m.safetensors")
    for layers, smallest in (["*"], 1), (None, 2):
        packed = fs.pack(checkpoint, coefficients="random", archetypes=0.3, layers=layers)
        counted = stored_bytes(list(shapes.values()), 0.3, smallest)
        assert counted == (checkpoint.nbytes, packed.nbytes)


# The command


def test_the_command_gives_json_table_and_picture(digits, fsurgeon, tmp_path, lab):
    words = (
        "study", "position", ZOO, "--factory", FACTORY.removeprefix("factory:"), "--data", digits,
        "-p", "repeats=1", "-p", "removed=20", "--seed", "3",
    )  # fmt: skip
    picture, result = tmp_path / "p.png", tmp_path / "r.json"
    done = fsurgeon(*words, "--picture", picture, "-o", result, "--cache", tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    content = json.loads(result.read_text())
    seeded = Lab(lab.checkpoint, ZOO, lab.data, seed=3)
    assert content == fs.study("position", seeded, {"repeats": 1, "removed": "20"}).to_json()
    assert content["schema"] == "filtersurgeon.study/1"
    again = fsurgeon(*words, "--table", "--cache", tmp_path / "cache", "--picture", picture,
                     "--force")  # fmt: skip
    assert "near-archetypes" in again.stdout.decode()
    assert "near-median minus near-archetypes" in again.stdout.decode()


def test_listing_and_storage(fsurgeon):
    listed = json.loads(fsurgeon("study", "--list").stdout)["studies"]
    assert [study["name"] for study in listed] == STUDIES.names()
    table = fsurgeon("study", "storage", "--table").stdout.decode()
    assert "65.250" in table
    assert "68.688" in table


def test_refusals(refuse, tmp_path):
    assert "position" in refuse("study", "positoin")
    assert "--list" in refuse("study")
    assert "INPUT" in refuse("study", "position")
    assert "no picture" in refuse("study", "storage", "--picture", tmp_path / "p.png")


@needs_shared
@pytest.mark.slow
def test_the_direction_of_table_1_on_a_real_network(shared_data):
    """At 20 %, filters near the median are missed less than filters near archetypes."""
    path = str(shared_data / "weights" / "cifar10_resnet20.safetensors")
    checkpoint = fs.load(path, arch="factory:examples.zoo.networks:cifar_resnet20")
    cfg = {
        "input_size": [3, 32, 32], "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]
    }  # fmt: skip
    images = DataSpec(str(shared_data / "cifar10" / "test.npz"), subset=1000)
    options = {"criteria": "near-archetypes,near-median", "removed": "20", "repeats": 2}
    found = fs.study("position", Lab(checkpoint, path, images, cfg), options).findings
    assert found["median_minus_archetypes"][0]["mean"] > 0


# Pruning


@pytest.fixture(scope="module")
def train_digits(digits):
    return {"train": str(digits), "train_subset": 64}


def test_what_compensations_are_worth_is_what_pruning_and_evaluating_give(
    lab, digits, train_digits
):
    options = {"removed": "50", "kinds": "none,merge,least-squares", **train_digits}
    found = fs.study("compensate", lab, options).findings
    assert found["baseline"]["mean"] == pytest.approx(354 / 360, abs=1.1 / 360)
    images = DataSpec(str(digits), "train", subset=64)
    for kind, line in found["accuracy"].items():
        pruned = fs.prune(
            lab.checkpoint, sparsity=0.5, per_layer=True, method="l2", compensate=kind,
            data=ImageRun(images) if kind == "least-squares" else None,
        )  # fmt: skip
        assert line[0]["mean"] == fs.evaluate(pruned, lab.data).accuracy
    parameters = [
        sum(int(np.prod(c[name].shape)) for name in c.tensors) for c in (lab.checkpoint, pruned)
    ]
    assert found["parameters_left"] == [parameters[1] / parameters[0]]


def test_zeroing_follows_the_scores(lab, digits):
    """By L1, the least and the most important half are each other's complement."""
    options = {"zeroed": "50", "orders": "least,most", "method": "l1"}
    found = fs.study("zeroing", lab, options).findings
    assert found["kernels"] == 6 + 16 * 6
    whole, least = (point["mean"] for point in found["accuracy"]["least"])
    most = found["accuracy"]["most"][1]["mean"]
    assert found["accuracy"]["most"][0]["mean"] == whole
    assert whole >= least > most
    tensors = load_file(ZOO)
    norms = np.concatenate([np.abs(tensors[f"conv{k}.weight"]).sum((2, 3)).ravel() for k in (1, 2)])
    limit = np.sort(norms)[51]
    model = networks.lenet5().eval()
    for k in (1, 2):
        weight = tensors[f"conv{k}.weight"]
        weight[np.abs(weight).sum((2, 3)) < limit] = 0
    model.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    ready = open_network(fs.load(ZOO, arch=FACTORY))
    data = open_data(DataSpec(str(digits)), ready.preprocessing, 10)
    x, y = (torch.stack([torch.as_tensor(pair[k]) for pair in data]) for k in (0, 1))
    with torch.no_grad():
        right = int((model(x).argmax(1) == y).sum())
    assert abs(round(360 * least) - right) <= 1


@pytest.mark.parametrize("method", ["l2", "saliency"])
def test_channelprune_counts_a_network_of_ones_own(lab, method):
    lab = replace(lab, data=replace(lab.data, subset=40))
    data = ImageRun(lab.data) if method == "saliency" else None
    options = {"zeroed": "50,90", "method": method}
    found = fs.study("channelprune", lab, options).findings["rows"]
    for row in found:
        report = []
        fs.prune(
            lab.checkpoint, sparsity=row["zeroed"], method=method, data=data, verify=False,
            observe=report.append,
        )  # fmt: skip
        assert row["pruned"] == report[0].to_json()["share_pruned"]
        assert row["paper"] is None
    assert found[1]["pruned"] > found[0]["pruned"] >= 0


def test_channelprune_scores_by_saliency_on_noise_where_no_images_are_named(lab):
    found = fs.study("channelprune", replace(lab, data=None), {"zeroed": "50", "seeds": 1})
    scores = saliency_of_noise(lab.checkpoint, 8, 64)
    assert (scores.method, scores.images) == ("saliency", 8)
    report = []
    fs.prune(lab.checkpoint, sparsity=0.5, scores=scores, verify=False, observe=report.append)
    assert found.findings["rows"][0]["pruned"] == report[0].to_json()["share_pruned"]
    assert any("Eq. 4 on 8 images of noise" in text for text in found.remarks)


def test_memorisation_trains_as_table_4_1_says():
    ways = memorisation_file._strategies("200,250,1000", 1.0, 2)
    recipes = [memorisation_file._recipe(way, 0.002, 1.0) for way in ways]
    assert [way.epochs for way in ways] == [200, 250, 1000]
    assert [recipe.lr for recipe in recipes] == [0.002, 0.001, 0.001]
    assert [recipe.min_lr for recipe in recipes] == pytest.approx([2e-6, 1e-6, 1e-6])
    assert [recipe.weight_decay for recipe in recipes] == [1.0, 0.0, 0.0]
    assert [way.augmentation is not None for way in ways] == [True, False, False]
    scaled = memorisation_file._strategies("200,250,1000", 0.004, 2)
    assert [way.epochs for way in scaled] == [1, 1, 4]
    assert [way.epochs for way in memorisation_file._strategies("7", 1.0, 2)] == [7, 7, 7]
    for wrong in ("7,8", "0", "many"):
        with pytest.raises(OptionError, match="one number or three"):
            memorisation_file._strategies(wrong, 1.0, 2)


def test_memorisation_says_how_each_network_was_trained(lab):
    small = replace(lab, data=replace(lab.data, subset=40))
    options = {"scale": 0.005, "copies": 1, "units": 1, "steps": 1}
    found = fs.study("memorisation", small, options).to_json()
    told = [(way["epochs"], way["lr"], way["weight_decay"]) for way in found["strategies"]]
    assert told == [(1, 0.002, 1.0), (1, 0.001, 0.0), (5, 0.001, 0.0)]
    assert found["options"] == options
    assert "epochs are 0.005 of those of Table 4.1" in found["remarks"]


@pytest.mark.slow
def test_channelprune_counts_torchvisions_networks():
    rows = fs.study("channelprune", Lab(), {"zeroed": "80,90,99", "seeds": 1}).findings["rows"]
    paper = {(row["network"], row["zeroed"]): row["paper"] for row in rows}
    assert paper == {
        ("resnet50", 0.8): None, ("resnet50", 0.9): 0.52, ("resnet50", 0.99): 0.79,
        ("densenet121", 0.8): 0.58, ("densenet121", 0.9): 0.74, ("densenet121", 0.99): None,
    }  # fmt: skip
    # Eq. 4 on eight images of noise, computed apart from this package.
    expected = {
        ("resnet50", 0.8): 0.354, ("resnet50", 0.9): 0.444, ("resnet50", 0.99): 0.711,
        ("densenet121", 0.8): 0.492, ("densenet121", 0.9): 0.624,
    }  # fmt: skip
    for row in rows:
        value = expected.get((row["network"], row["zeroed"]))
        assert value is None or row["pruned"] == pytest.approx(value, abs=0.03)


def test_a_ranking_is_trained_as_tune_trains(lab, digits, train_digits):
    options = {
        "methods": "l1", "removed": "50", "epochs": 1, "repeats": 1, "lr": 1e-3, **train_digits
    }  # fmt: skip
    found = fs.study("prune-ranking", lab, options).findings
    pruned = fs.prune(lab.checkpoint, sparsity=0.5, per_layer=True, method="l1")
    assert found["original"] == fs.evaluate(lab.checkpoint, lab.data).accuracy
    assert found["before"]["l1"][0]["mean"] == fs.evaluate(pruned, lab.data).accuracy
    images = TrainingImages(DataSpec(str(digits), "train", subset=64))
    recipe = TrainingRecipe(optimizer="adam", lr=1e-3, weight_decay=0.0, schedule="none")
    learnt, _ = fs.tune(pruned, images, recipe, RunSettings(1, 64, device="cpu"))
    assert found["after"]["l1"][0]["mean"] == fs.evaluate(learnt, lab.data).accuracy
    assert found["after"]["l1"][0]["mean"] != found["before"]["l1"][0]["mean"]


@pytest.mark.parametrize(
    ("study", "options"),
    [
        ("compensate", {"kinds": "most"}), ("compensate", {"removed": "0"}),
        ("compensate", {"method": "saliency"}), ("zeroing", {"orders": "first"}),
        ("zeroing", {"method": "archetype"}), ("channelprune", {"networks": "vgg16"}),
        ("channelprune", {"method": "archetype"}), ("prune-ranking", {"methods": "saliency"}),
        ("prune-ranking", {"repeats": 0}), ("prune-ranking", {"epochs": -1}),
    ],
)  # fmt: skip
def test_unusable_options_of_pruning_studies(lab, study, options):
    own = Lab(data=lab.data) if study == "channelprune" else lab
    with pytest.raises(OptionError):
        fs.study(study, own, options)


def test_bars_of_an_accuracy_stay_between_0_and_100():
    from matplotlib.figure import Figure

    from filtersurgeon.learn.evaluation import Estimate
    from filtersurgeon.plots.curves import draw_curves

    figure = Figure()
    draw_curves(figure, [1, 2], {"a": [Estimate(0.7, 0.1, 1.3), Estimate(0.2, -0.5, 0.9)]}, "epoch")
    bars = figure.axes[0].collections[0].get_segments()
    assert [bar[:, 1].tolist() for bar in bars] == [
        pytest.approx([10.0, 100.0]),
        pytest.approx([0.0, 90.0]),
    ]
