"""Studies of frozen, zeroed and pruned spatial filters: what they train, count and conclude."""

import inspect
from dataclasses import fields, replace
from math import prod

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import filtersurgeon as fs
from examples.zoo import train
from filtersurgeon.data.data import DataSpec, ImageRun
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.train import frozen
from filtersurgeon.learn.tuning import TrainingImages
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies import _fixed, capacity, training_cost
from filtersurgeon.studies._fixed import Way, collect_rows, make_remarks, show_difference
from filtersurgeon.studies._lab import Lab
from filtersurgeon.studies._presets import presets, with_preset
from filtersurgeon.studies._training_work import count_work

ZOO = "examples/zoo/lenet5_digits.safetensors"
FACTORY = "factory:examples.zoo.networks:lenet5"
NAMES = (
    "zero-and-train", "prune-and-fix", "training-cost", "learning-rate", "capacity", "zeroing",
    "channelprune", "fixed-filters",
)  # fmt: skip
SMALL = {"train_subset": 64, "epochs": 1, "repeats": 1}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    train.write_digits(path)
    return Lab(fs.load(ZOO, arch=FACTORY), ZOO, DataSpec(str(path), subset=60))


def _tune(begun, lab, freeze, lr=1e-3):
    """Train as the studies say that they do; give the accuracy after the epoch."""
    _, result = fs.tune(
        begun,
        TrainingImages(DataSpec(lab.data.source, "train", subset=64), lab.data),
        TrainingRecipe(freeze, "adam", lr, weight_decay=0.0, schedule="none"),
        RunSettings(1, device="cpu"),
    )
    return result.history[0].accuracy


# Presets


@pytest.mark.parametrize("name", NAMES)
def test_presets_set_parameters_that_the_study_has(name):
    known = presets(name)
    assert "paper" in known
    assert "preset" in STUDIES.options(name)
    for values in known.values():
        bound = STUDIES.bind(name, values)
        assert bound == values
        defaults = {key: STUDIES.options(name)[key].default for key in values}
        assert bound != defaults


def test_what_is_stated_beside_a_preset_holds():
    found = with_preset("zero-and-train", {"preset": "paper", "batch-size": "32", "epochs": 2})
    assert (found["epochs"], found["batch_size"]) == (2, "32")
    assert (found["gradient"], found["saliency_images"], found["lr"]) == (True, 15 * 4, 1e-4)
    assert (found["pruned_lr"], found["repeats"], found["preset"]) == (2.0, 6, "paper")
    assert with_preset("prune-and-fix", {"preset": "paper-50"})["saliency_images"] == 50 * 4
    assert with_preset("zeroing", {"zeroed": "50"}) == {"zeroed": "50"}
    assert with_preset("zeroing", {"preset": "paper-50"})["train_subset"] == 50 * 4
    assert with_preset("channelprune", {"preset": "paper"})["gradient"] is True
    assert with_preset("fixed-filters", {"preset": "paper"})["batch_size"] == 4
    with pytest.raises(OptionError, match="study capacity has no preset 'papers'"):
        with_preset("capacity", {"preset": "papers"})


def test_shared_parameters_are_options_of_both_studies(lab):
    shared = {field.name for field in fields(_fixed.Plan)}
    for name, own in (
        ("zero-and-train", {"zeroed", "ways", "starts"}),
        ("prune-and-fix", {"zeroed", "fill", "start"}),
    ):
        options = STUDIES.options(name)
        assert set(options) == shared | own
        assert options["saliency_images"].annotation is int
        assert STUDIES.inputs(name) == ("lab",)
        text = inspect.getdoc(STUDIES.function(name))
        assert "\n    zeroed: percentages" in text
        assert "\n    epochs: passes over the training images; the paper has 40.\n" in text
        assert "plan" not in text.partition("Args:")[2]
        with pytest.raises(OptionError, match=r"'epoch'.*did you mean epochs"):
            fs.study(name, lab, {"epoch": 1})


def test_zeroing_and_counting_take_the_gradient_alone(lab):
    images = ImageRun(DataSpec(lab.data.source, "train", subset=8))
    scores = fs.kernel_scores(lab.checkpoint, "saliency", data=images, options={"gradient": True})
    made = fs.prune(lab.checkpoint, sparsity=0.5, scores=scores, min_channels=10**9, verify=False)
    options = {"zeroed": "50", "orders": "least", "gradient": True, "train_subset": 8}
    found = fs.study("zeroing", lab, options).findings["accuracy"]["least"][1]
    assert found["mean"] == pytest.approx(fs.evaluate(made, lab.data).accuracy)
    with pytest.raises(OptionError, match="gradient=true is a form of saliency"):
        fs.study("zeroing", lab, {"method": "l1", "gradient": True})
    few = replace(lab, data=replace(lab.data, split="train", subset=8))
    row = fs.study("channelprune", few, {"zeroed": "70", "gradient": True}).findings["rows"][0]
    reports = []
    fs.prune(lab.checkpoint, sparsity=0.7, scores=scores, verify=False, observe=reports.append)
    left = reports[0].after.parameters / reports[0].before.parameters
    assert row["pruned"] == pytest.approx(1 - left)


# Zeroed, cut, frozen


def test_ways_zero_the_same_kernels_and_only_cuts_remove_channels(lab):
    network = {"layers": [], "preprocess": {}}
    found = {}
    for name in ("zero", "fillzero", "cut", "cut-fillzero"):
        way = _fixed.WAYS[name]
        made, report = _fixed.zero_or_cut(lab.checkpoint, network, way, 0.9, "l1", {}, None, 0)
        found[name] = {key: made[key].array() for key in made}, report
    tensors = {name: lab.checkpoint[f"{name}.weight"].array() for name in ("conv1", "conv2")}
    norms = np.concatenate([np.abs(w).sum((2, 3)).ravel() for w in tensors.values()])
    limit = np.sort(norms)[int(0.9 * len(norms))]
    for name, weight in tensors.items():
        zeroed = np.abs(weight).sum((2, 3)) < limit
        made, filled = (found[way][0][f"{name}.weight"] for way in ("zero", "fillzero"))
        assert np.array_equal((made == 0).all((2, 3)), zeroed)
        assert np.array_equal(made[~zeroed], weight[~zeroed])
        assert np.array_equal(filled[~zeroed], weight[~zeroed])
        assert (filled != 0).all()
    for way in ("cut", "cut-fillzero"):
        made, report = found[way]
        pruned = fs.prune(lab.checkpoint, sparsity=0.9, method="l1", verify=False)
        assert {key: x.shape for key, x in made.items()} == {x: pruned[x].shape for x in pruned}
        assert report.after.parameters < report.before.parameters
        assert (made["conv2.weight"] == 0).any() == (way == "cut")
    assert found["zero"][1].after == found["zero"][1].before


def test_runs_are_those_of_prune_and_tune(lab):
    options = {**SMALL, "starts": "pretrained", "ways": "learned,fixed,cut", "zeroed": "90",
               "saliency_images": 12, "pruned_lr": 2.0, "gradient": True}  # fmt: skip
    found = fs.study("zero-and-train", lab, options)
    images = ImageRun(DataSpec(lab.data.source, "train", subset=12))
    pruned = fs.prune(lab.checkpoint, sparsity=0.9, method="saliency", data=images,
                      options={"gradient": True}, verify=False)  # fmt: skip
    learned, fixed, cut = found.findings["rows"]
    assert learned["accuracy"]["mean"] == _tune(lab.checkpoint, lab, "none")
    assert fixed["accuracy"]["mean"] == _tune(lab.checkpoint, lab, "spatial")
    assert cut["accuracy"]["mean"] == _tune(pruned, lab, "spatial", 2e-3)
    assert cut["before"]["mean"] == fs.evaluate(pruned, lab.data).accuracy
    assert learned["before"]["mean"] == fs.evaluate(lab.checkpoint, lab.data).accuracy
    sizes = [sum(prod(c[x].shape) for x in c) for c in (lab.checkpoint, pruned)]
    assert cut["left"] == sizes[1] / sizes[0]
    gap = cut["accuracy"]["mean"] - learned["accuracy"]["mean"]
    assert cut["difference"]["mean"] == pytest.approx(gap)
    assert learned["difference"] is None
    assert "shorter than the paper's runs: epochs 1 instead of 40, repeats 1 instead of 6" in (
        found.remarks
    )


def test_pruned_networks_train_with_and_without_frozen_filters(lab, monkeypatch):
    seen = []

    def remember(start, way, share, recipe, seed, **_rest):
        seen.append((start, Way(**way), share, recipe["lr"], seed))
        return {"accuracy": [0.5 + 0.1 * seed], "before": None, "parameters": [100, 20],
                "kernels": [9, 10]}  # fmt: skip

    def run(function, arguments, *_):
        return [function(**each) for each in arguments]

    monkeypatch.setattr("filtersurgeon.studies._fixed.train_way", remember)
    monkeypatch.setattr("filtersurgeon.studies._fixed.run_jobs", run)
    options = {**SMALL, "repeats": 2, "zeroed": "99", "lr": 0.01, "pruned_lr": 2.0}
    found = fs.study("prune-and-fix", lab, options)
    assert [(way.handling, way.frozen, lr) for _, way, _, lr, _ in seen] == [
        ("none", False, 0.01), ("none", False, 0.01), ("none", True, 0.01), ("none", True, 0.01),
        ("cut", True, 0.02), ("cut", True, 0.02), ("cut", False, 0.02), ("cut", False, 0.02),
    ]  # fmt: skip
    assert {way.fill for _, way, *_ in seen[4:]} == {"fillzero"}
    assert found.tables[0].rows[2] == ("frozen", "99 %", "0.800", "55.0 ±63.5", "+0.0 ±0.0")


def test_rows_are_paired_by_seed_and_leave_out_what_diverged():
    def result(*accuracy):
        return {"accuracy": list(accuracy) or None, "before": None, "parameters": None}

    base, other = (0.7, 0.8, 0.9), (0.65, 0.77, 0.84)
    found = {("scratch", "learned", 0.0, n): result(0.1, x) for n, x in enumerate(base)}
    found |= {("scratch", "zero", 0.9, n): result(0.1, x) for n, x in enumerate(other)}
    runs = [("scratch", "learned", 0.0), ("scratch", "zero", 0.9)]
    learned, zero = collect_rows(runs, found, 3)
    gaps = np.subtract(other, base)
    expected = stats.ttest_1samp(gaps, 0).confidence_interval(0.95)
    assert zero["difference"] == pytest.approx((gaps.mean(), expected.low, expected.high))
    assert learned["difference"] is None
    assert show_difference(zero["difference"]).startswith("-4.7 ±")
    (said, _) = make_remarks([learned, zero], {"epochs": 2, "repeats": 6})
    assert said.startswith("zero at 90 % (scratch) is below learned: -4.7 ±")
    found["scratch", "learned", 0.0, 0] = result()
    learned, zero = collect_rows(runs, found, 3)
    assert learned["accuracy"].mean == pytest.approx(0.85)
    assert zero["difference"].mean == pytest.approx(-0.045)
    assert zero["accuracy"].mean == pytest.approx(np.mean(other))
    assert make_remarks([learned], {"epochs": 40, "repeats": 6}) == [
        "1 runs diverged and are left out"
    ]


# Time and memory


class Two(nn.Module):
    """A 3x3 convolution, a depthwise one, a pointwise one, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4),
            nn.Conv2d(4, 6, 1),
        )  # fmt: skip
        self.head = nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def test_the_work_of_a_step_is_arithmetic():
    """The first layer's input needs no gradient; frozen layers need none of their weights."""
    model, x = Two(), torch.randn(2, 3, 8, 8)
    forward = 2 * 64 * (4 * 27 + 4 * 9 + 6 * 4) + 2 * 5 * 6
    first, depthwise, rest = 2 * 64 * 4 * 27, 2 * 64 * 4 * 9, 2 * 64 * 6 * 4 + 2 * 5 * 6
    for freeze, backward in (
        ("none", first + 2 * depthwise + 2 * rest),
        ("spatial", depthwise + 2 * rest),
    ):
        with frozen(model, freeze):
            work = count_work(model, lambda: model(x).sum())
        assert (work.forward, work.backward) == (forward, backward)
        trained = [p for n, p in model.named_parameters() if freeze == "none" or "weight" not in n
                   or n.startswith(("body.2", "head"))]  # fmt: skip
        assert work.trained == 4 * sum(p.numel() for p in trained)
        assert work.weights == 4 * sum(p.numel() for p in model.parameters())
        assert work.memory() == work.weights + 3 * work.trained + work.kept
    assert all(p.grad is None for p in model.parameters())


def test_the_spatial_parameters_are_those_of_table_3():
    for name, (spatial, share, *_) in training_cost.PAPER.items():
        whole, found = capacity._count_parameters(f"torchvision:{name}", 5)
        assert round(found / 1e5) * 1e5 == spatial
        assert round(found / whole, 2) == share


def test_training_with_frozen_filters_does_less(lab):
    options = {"zeroed": "90", "method": "l1", "steps": 1, "rounds": 2, "batch_size": 2,
               "cpu_time": True}  # fmt: skip
    found = fs.study("training-cost", Lab(lab.checkpoint, ZOO), options)
    learned, fixed, pruned, both = found.findings["rows"]
    assert [row["frozen"] for row in found.findings["rows"]] == [False, True, False, True]
    assert learned["spatial"] == 6 * 25 + 16 * 6 * 25
    assert learned["macs"][0] == fixed["macs"][0] > pruned["macs"][0]
    assert learned["macs"][1] - fixed["macs"][1] == 6 * 25 * 28**2 + 16 * 6 * 25 * 100
    assert both["macs"][1] < pruned["macs"][1] < learned["macs"][1]
    assert learned["bytes"] - fixed["bytes"] >= 3 * 4 * learned["spatial"]
    assert learned["saved"] is None
    assert all(row["seconds"] > 0 for row in found.findings["rows"])
    assert any("less work in the backward pass" in text for text in found.remarks)


# Rates and sizes


def test_a_rate_is_that_of_fixed_filters(lab):
    options = {**SMALL, "rates": "0.002", "methods": "learned,dct2"}
    rows = fs.study("learning-rate", lab, options).findings["rows"]
    other = {**SMALL, "lr": 0.002, "methods": "learned,dct2", "starts": "scratch"}
    expected = fs.study("fixed-filters", lab, other).findings["accuracy"]["scratch"]
    assert {row["method"]: row["accuracy"] for row in rows} == expected
    gap = expected["dct2"]["mean"] - expected["learned"]["mean"]
    assert rows[1]["difference"]["mean"] == pytest.approx(gap)
    assert rows[1]["first_difference"] == rows[1]["difference"]


def test_sizes_are_counted_and_trained(lab, tmp_path):
    from filtersurgeon.studies._lab import draw_study

    options = {**SMALL, "networks": f"{FACTORY}(num_classes=10), {FACTORY}", "methods": "ghaar"}
    cfg = lab.checkpoint.pretrained_cfg
    found = fs.study("capacity", Lab(data=lab.data, preprocess=cfg), options)
    first, second = found.findings["rows"]
    assert first["parameters"] == 61706
    assert first["spatial"] == 6 * 25 + 16 * 6 * 25
    begun = replace(fs.initialize(fs.untrained(FACTORY), method="ghaar"), pretrained_cfg=cfg)
    assert second["accuracy"]["mean"] == first["accuracy"]["mean"] == _tune(begun, lab, "spatial")
    draw_study(found, tmp_path / "c.png")


def test_architectures_are_split_outside_of_parentheses():
    text = "timm:a(x=1,y=2), factory:m:f(width=0.5),timm:b"
    expected = ["timm:a(x=1,y=2)", "factory:m:f(width=0.5)", "timm:b"]
    assert capacity._read_networks(text) == expected
    with pytest.raises(OptionError, match="architectures between commas"):
        capacity._read_networks("a,,b")


@pytest.mark.parametrize(
    ("study", "options", "message"),
    [
        ("zero-and-train", {"ways": "cut-learned"}, "ways: 'cut-learned' is none of"),
        ("zero-and-train", {"method": "archetype"}, "method: 'archetype' is none of"),
        ("zero-and-train", {"method": "l1", "gradient": True}, "gradient=true is a form of"),
        ("zero-and-train", {"zeroed": "100"}, "above 0 and below 100"),
        ("prune-and-fix", {"fill": "restore"}, "fill: 'restore' is none of"),
        ("prune-and-fix", {"pruned_lr": 0.0}, "pruned_lr=0 should be positive"),
        ("prune-and-fix", {"repeats": 0}, "should be at least 1"),
        ("training-cost", {"rounds": 1}, "rounds at least 2"),
        ("training-cost", {"method": "l1", "gradient": True}, "gradient=true is a form of"),
        ("learning-rate", {"rates": "0.1,fast"}, "rates=0.1,fast should be positive numbers"),
        ("learning-rate", {"rates": "-1"}, "should be positive numbers"),
        ("learning-rate", {"methods": "haar"}, "methods: 'haar' is none of"),
        ("capacity", {"methods": "guided-steer"}, "methods: 'guided-steer' is none of"),
    ],
)
def test_what_the_studies_refuse(lab, study, options, message):
    with pytest.raises(OptionError, match=message):
        fs.study(study, lab, options)
