"""Learning from a teacher: the loss in closed form, matched features, images without labels."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import assert_same, small_cfg, stripes, tensors_of
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from small_data import LENET, write_folders
from small_data import digits as digits  # a fixture
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.errors import OptionError, TrainingError
from filtersurgeon.learn.distillation import Distillation, feature_error, softened_divergence
from filtersurgeon.learn.measure import count_macs
from filtersurgeon.learn.session import TrainingData
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.train import train

ROOT = Path(__file__).parents[1]
RUN = RunSettings(epochs=3, batch_size=8, device="cpu")
RECIPE = TrainingRecipe(lr=1e-2, weight_decay=0)
NETS = """
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(8, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.ReLU()
        self.conv2 = nn.Conv2d(width, 8, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(self.act(self.norm(self.conv1(x))))


class Net(nn.Module):
    def __init__(self, width=8, classes=2):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def net(num_classes=2):
    return Net(classes=num_classes)
"""
scope: dict = {"__name__": "nets"}
exec(NETS, scope)
Net = scope["Net"]


def _net(width=8, seed=0, classes=2):
    torch.manual_seed(seed)
    return Net(width, classes)


def _narrowed(teacher, width):
    """Give the teacher with the first channels of its blocks alone."""
    student = _net(width)
    cut = {
        name: tensor[tuple(slice(size) for size in own.shape)]
        for (name, tensor), own in zip(
            teacher.state_dict().items(), student.state_dict().values(), strict=True
        )
    }
    student.load_state_dict(cut)
    return student


def _apart(first, second):
    images = torch.stack([stripes(32, seed=5)[k][0] for k in range(32)])
    with torch.no_grad():
        return float(softened_divergence(second.eval()(images), first.eval()(images), 1.0))


def test_the_divergence_is_that_of_the_formula():
    random = np.random.default_rng(0)
    found, expected = random.normal(0, 3, (2, 5, 7))
    for temperature in (1.0, 4.0):
        p, q = (np.exp(scores / temperature) for scores in (expected, found))
        p, q = (each / each.sum(1, keepdims=True) for each in (p, q))
        by_hand = temperature**2 * (p * np.log(p / q)).sum(1).mean()
        tensors = (torch.tensor(each) for each in (found, expected))
        assert float(softened_divergence(*tensors, temperature)) == pytest.approx(by_hand, rel=1e-5)


def test_the_error_of_features_is_relative_to_their_size():
    targets = [torch.full((2, 3), 2.0), torch.full((4,), 10.0)]
    features = [targets[0] + 1, targets[1] * 1.5]
    assert float(feature_error(features, targets)) == pytest.approx((0.25 + 0.25) / 2)
    assert float(feature_error([torch.zeros(2)], [torch.zeros(2)])) == 0


@pytest.mark.parametrize(("labelled", "features"), [(True, 0.5), (True, 0.0), (False, 2.0)])
def test_the_loss_is_the_weighted_sum(labelled, features):
    recipe = replace(RECIPE, temperature=2.0, teacher_weight=0.7, feature_weight=features)
    teacher, student = _net(8, 1), _net(4, 2)
    images = torch.randn((4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 1, 0])
    loss = Distillation(teacher, recipe, labelled)
    found = loss(student, student, images, lambda scores: functional.cross_entropy(scores, labels))
    with torch.no_grad():
        stem = [model.stem(images) for model in (student, teacher)]
        first = [m.blocks[0](x) for m, x in zip((student, teacher), stem, strict=True)]
        last = [m.blocks[1](x) for m, x in zip((student, teacher), first, strict=True)]
        scores = [m.head(x.mean((2, 3))) for m, x in zip((student, teacher), last, strict=True)]
        by_teacher = softened_divergence(*scores, 2.0)
        by_features = feature_error(*zip(first, last, strict=True))
        by_labels = functional.cross_entropy(scores[0], labels)
    weight = 0.7 if labelled else 1.0
    by_hand = (1 - weight) * by_labels + weight * by_teacher + features * by_features
    assert loss.matched == (["blocks", "blocks.0"] if features else [])
    # Batch norms of the student were in training mode in both runs.
    assert float(found.detach()) == pytest.approx(float(by_hand), rel=1e-4)


def test_layers_are_compared_where_no_block_is():
    def plain(width):
        return nn.Sequential(
            nn.Conv2d(3, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, 5, 3),
            nn.Flatten(),
            nn.Linear(80, 2),
        )

    teacher, student = plain(6), plain(4)
    loss = Distillation(teacher, RECIPE)
    images, labels = torch.randn(2, 3, 8, 8), torch.tensor([0, 1])
    loss(student, student, images, lambda scores: functional.cross_entropy(scores, labels))
    assert loss.matched == ["2"]
    assert not any(module._forward_hooks for model in (teacher, student) for module in model)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_narrowed_network_gets_nearer_to_its_teacher(labelled):
    teacher = _net(8)
    train(teacher, TrainingData(stripes(64), None, 2), RECIPE, RUN)
    before = tensors_of(teacher)
    student = _narrowed(teacher, 3)
    apart = _apart(teacher, student)
    data = TrainingData(stripes(64), None, 2, teacher, labelled)
    found = train(student, data, replace(RECIPE, lr=3e-3), replace(RUN, epochs=6))
    assert _apart(teacher, student) < 0.6 * apart
    assert found.history[-1].train_loss < found.history[0].train_loss
    assert found.matched == ("blocks", "blocks.0")
    assert_same(before, tensors_of(teacher))


def test_a_teacher_of_other_classes_is_named():
    data = TrainingData(stripes(16), None, 2, _net(8, classes=3))
    with pytest.raises(TrainingError, match="outputs of 3 classes, the network of 2"):
        train(_net(4), data, RECIPE, RUN)
    with pytest.raises(OptionError, match="need a teacher"):
        train(_net(4), TrainingData(stripes(16), None, 2, None, False), RECIPE, RUN)


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """Enter a folder with a network, its pruned one, and images with and without labels."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(tmp_path))
    teacher = _net()
    train(teacher, TrainingData(stripes(64), None, 2), RECIPE, RUN)
    cfg = {"pretrained_cfg": json.dumps(small_cfg())}
    save_file(teacher.state_dict(), "wide.safetensors", {"format": "pt", **cfg})
    save_file(_net(classes=3).state_dict(), "three.safetensors", {"format": "pt", **cfg})
    wide = fs.load("wide.safetensors", arch="factory:nets:net")
    fs.save(fs.prune(wide, sparsity=0.5, per_layer=True, method="l2"), "slim.safetensors")
    images = stripes(64)
    np.savez("labelled.npz", x=images.source.pixels, y=np.array(images.source.labels))
    np.savez("bare.npz", x=images.source.pixels)
    (tmp_path / "bare").mkdir()
    for number, pixels in enumerate(images.source.pixels):
        Image.fromarray(pixels).save(tmp_path / "bare" / f"{number}.png")
    return tmp_path


TUNE = ("tune", "slim.safetensors", "--factory", "nets:net", "--device", "cpu", "--lr", 3e-3)
TUNE += ("--batch-size", 8, "--epochs", 4)
TEACHER = ("--teacher", "wide.safetensors")


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    "words",
    [
        ("--data", "labelled.npz"),
        ("--data", "labelled.npz", "--labels", "none"),
        ("--data", "bare.npz"),
        ("--data", "bare"),
    ],
)
def test_tune_learns_from_a_teacher_with_labels_or_without(fsurgeon, words):
    done = fsurgeon(*TUNE, *TEACHER, *words, "-o", "out.safetensors")
    assert done.returncode == 0, done.stderr
    wide, slim, out = (
        fs.load(f"{name}.safetensors", arch="factory:nets:net") for name in ("wide", "slim", "out")
    )
    teacher, before, after = (fs.build(each) for each in (wide, slim, out))
    assert _apart(teacher, after) < 0.5 * _apart(teacher, before)
    assert b"teacher: " in done.stderr
    step = out.history[-1].to_json()
    assert step["resources"] == {"teacher": wide.digest}
    assert step["options"].get("labelled", True) == ("--labels" not in words)
    with safe_open("out.safetensors", "pt") as file:
        assert "wide" not in json.dumps(file.metadata())


REFUSALS = {
    "other classes": (("--teacher", "three.safetensors"), "gives 3 classes but"),
    "no teacher": (("-p", "temperature=2"), "temperature is for learning from a teacher"),
    "no labels": (("--data", "bare"), "holds no class directories"),
    "labels unused": (("--labels", "none"), "need --teacher"),
    "a temperature": ((*TEACHER, "-p", "temperature=0"), "temperature must be positive"),
    "a weight": ((*TEACHER, "-p", "teacher_weight=1.5"), "teacher_weight must lie in 0..1"),
    "noise without labels": ((*TEACHER, "--labels", "none", "--noisy-copies", 1), "label noise"),
    "a missing file": (("--teacher", "gone.safetensors"), "no such file"),
}


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(refuse, case):
    words, expected = REFUSALS[case]
    assert expected in refuse(*TUNE, "--data", "labelled.npz", "-o", "out.safetensors", *words)


@pytest.mark.usefixtures("nets")
def test_a_teacher_of_other_images_is_refused(refuse):
    tensors = _net().state_dict()
    cfg = json.dumps({**small_cfg(size=16), "mean": (0.4, 0.4, 0.4)})
    save_file(tensors, "other.safetensors", {"format": "pt", "pretrained_cfg": cfg})
    words = (
        *TUNE,
        "--data",
        "labelled.npz",
        "--teacher",
        "other.safetensors",
        "-o",
        "out.safetensors",
    )
    assert "expects images of input_size 3,16,16" in refuse(*words)
    words += ("--preprocess", "input_size=3,8,8")
    assert "expects images of mean 0.4,0.4,0.4" in refuse(*words)


@pytest.mark.usefixtures("nets")
def test_a_run_goes_on_with_its_own_teacher_only(fsurgeon, refuse):
    words = (*TUNE, "--data", "labelled.npz", "--run", "run")
    done = fsurgeon(*words, *TEACHER, "-o", "out.safetensors")
    assert done.returncode == 0, done.stderr
    again = (*words, "--resume", "--force", "-o", "out.safetensors")
    assert fsurgeon(*again, *TEACHER).returncode == 0
    assert "was started with teacher" in refuse(*again, "--teacher", "slim.safetensors")


def test_lenet_learns_from_a_folder_of_files(digits, fsurgeon):
    write_folders(digits / "folders", "a", 16)
    words = ("tune", "le.safetensors", *LENET, "--teacher", "le.safetensors", "--epochs", 1)
    done = fsurgeon(*words, "--data", digits / "folders" / "a", "-o", "out.safetensors")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_example_prunes_in_rounds(nets, monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FSURGEON", f"{sys.executable} -m filtersurgeon")
    script = ["sh", ROOT / "examples/prune_in_rounds.sh", nets / "wide.safetensors", nets / "bare"]
    words = [nets / "out", "1", "0.8 0.5", "--factory", "nets:net"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{nets}"}
    done = subprocess.run(
        [*script, *words], cwd=nets, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("$ fsurgeon prune") == 2
    wide, out = (
        fs.load(nets / name, arch="factory:nets:net")
        for name in ("wide.safetensors", "out/tuned_2.safetensors")
    )
    sizes = [count_macs(fs.build(each), (3, 8, 8)) for each in (wide, out)]
    assert 0.4 < sizes[1] / sizes[0] <= 0.55
    assert [step.verb for step in out.history] == ["prune", "tune", "prune", "tune"]
