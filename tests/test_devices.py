"""Devices: the computation of every verb on a pretended GPU, and what ``auto`` is."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from learning import arrays, noise_images
from pretended import MixUpError, Pretended, pretended_gpus
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import filtersurgeon as fs
from benchmarks import gpu_check, gpu_study
from filtersurgeon.archetypes import elimination
from filtersurgeon.cli.application import app
from filtersurgeon.errors import OptionError
from filtersurgeon.learn import jobs, session
from filtersurgeon.learn.jobs import JobSettings, run_jobs
from filtersurgeon.networks import devices
from filtersurgeon.networks.opened_module import open_module
from filtersurgeon.pruning.reconstruction import targets
from filtersurgeon.ranking import saliency
from filtersurgeon.see import linearise


class Small(nn.Module):
    """A residual network of three convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.three = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(functional.relu(self.norm(self.one(x))))
        x = x + functional.relu(self.three(functional.relu(self.two(x))))
        return self.head(x.mean((2, 3)))


@functools.cache
def checkpoint() -> fs.Checkpoint:
    torch.manual_seed(0)
    network = Small()
    network(torch.randn(16, 3, 12, 12))
    return open_module(network.eval(), (3, 12, 12))


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    return noise_images(12)


def ranked(ranking: fs.Ranking) -> dict[str, np.ndarray]:
    return {name: layer.scores for name, layer in ranking.layers.items()}


def tuned() -> dict[str, np.ndarray]:
    recipe = fs.TrainingRecipe(lr=1e-3, clip_grad=1.0)
    run = fs.RunSettings(epochs=1, batch_size=8, channels_last=True)
    found, result = fs.tune(checkpoint(), fs.TrainingImages(images(), images()), recipe, run)
    return {**arrays(found), "loss": np.array(result.history[0].train_loss)}


def compared() -> dict[str, np.ndarray]:
    found = fs.compare([checkpoint(), checkpoint()], images())
    assert found.first.latency is not None
    return {
        "accuracy": np.array(found.second.evaluation.top1),
        "difference": np.array(found.difference.relative_max),
    }


def walked() -> dict[str, np.ndarray]:
    with TemporaryDirectory() as folder:
        scene = fs.walk(
            checkpoint(), Path(folder, "walk.html"), images()[0][:1],
            settings=fs.WalkSettings(max_size=None),
        )  # fmt: skip
    return {name: scene.networks[0].maps(name) for name in ("one", "three")}


VERBS = {
    "rank by saliency": lambda: ranked(fs.rank(checkpoint(), "saliency", data=images())),
    "prune by reconstruction": lambda: arrays(
        fs.prune(checkpoint(), target="macs=0.6x", data=images())
    ),
    "prune by least squares": lambda: arrays(
        fs.prune(
            checkpoint(), sparsity=0.5, per_layer=True, method="l2", compensate="least-squares",
            data=images(),
        )
    ),
    "prune by batch norm": lambda: arrays(
        fs.prune(
            checkpoint(), sparsity=0.5, per_layer=True, method="l2", compensate="batchnorm",
            data=images(),
        )
    ),
    "prune kernels": lambda: arrays(fs.prune(checkpoint(), sparsity=0.5, data=images())),
    "eval": lambda: {"loss": np.array(fs.evaluate(checkpoint(), images()).loss)},
    "compare": compared,
    "tune": tuned,
    "decode": lambda: {
        found.layer: found.filters
        for found in fs.decode(
            checkpoint(), fs.DecodeSettings(["two"], "0,3"), data=images()
        )
    },
    "maximize": lambda: {
        found.layer: found.images
        for found in fs.maximize(
            checkpoint(), fs.AscentSettings(steps=3), layers=["two"], units="0,3"
        )
    },
    "gradcam": lambda: {"maps": fs.gradcam([checkpoint()], data=images()[0][:2]).looks[0].maps},
    "activations": lambda: {
        "maps": fs.activations([checkpoint()], data=images()[0][:2], layers=["two"])
        .layers[0]
        .maps[0]
    },
    "walk": walked,
    "explain": lambda: {
        found.name: found.e2
        for found in fs.explain(
            checkpoint(), scores=fs.kernel_scores(checkpoint(), data=images())
        ).layers
    },
    "embed": lambda: {"points": fs.embed([checkpoint()], images(), "pca").clouds[0].points},
    "bank learn": lambda: {
        "codes": fs.learn_bank(
            checkpoint(), fs.LearningSettings(epochs=1), size=3, all_spatial=True
        ).decoder[0][0]
    },
}  # fmt: skip
WAITS = {
    "rank by saliency": 18, "prune by reconstruction": 120, "prune by least squares": 6,
    "prune by batch norm": 2, "prune kernels": 18, "eval": 4, "compare": 111, "tune": 64,
    "decode": 6, "maximize": 3, "gradcam": 3, "activations": 1, "walk": 47, "explain": 18,
    "embed": 2, "bank learn": 21,
}  # fmt: skip
"""How often the host waits for the device; a wait for each of the 12 images fails a test."""


@functools.cache
def on_cpu(verb: str) -> dict[str, np.ndarray]:
    return VERBS[verb]()


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_computes_on_the_device_and_finds_the_same(verb: str) -> None:
    expected = on_cpu(verb)
    with pretended_gpus() as mode:
        found = VERBS[verb]()
    assert mode.ran > 5
    assert mode.counts["waits"] < WAITS[verb] + 12
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


def leave_labels_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    real = saliency._true_outputs
    monkeypatch.setattr(
        saliency, "_true_outputs", lambda x, labels, *more: real(x, labels.cpu(), *more)
    )


def sum_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    real = targets.new_sums
    monkeypatch.setattr(targets, "new_sums", lambda n, m, _: real(n, m, torch.device("cpu")))


def compare_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    real = session.make_loss
    monkeypatch.setattr(
        session, "make_loss", lambda *how: lambda x, labels: real(*how)(x, labels.cpu())
    )


def leave_the_image_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearise, "find_device", lambda _: torch.device("cpu"))
    monkeypatch.setattr(linearise, "move_like", lambda x, _: x)


FOUND = "tensors on (cpu and cuda:0|cuda:0 and cpu)"
PLANTED = {
    "rank by saliency": leave_labels_behind,
    "prune by reconstruction": sum_elsewhere,
    "tune": compare_elsewhere,
}


@pytest.mark.parametrize("verb", PLANTED)
def test_a_planted_mix_up_is_found(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[verb](monkeypatch)
    with pytest.raises(Exception, match=FOUND), pretended_gpus():
        VERBS[verb]()


def test_a_mix_up_in_decoding_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda y, x, seed=None, **more: real(y, x, seed.cpu(), **more)
        if seed is not None else real(y, x, **more)
    )  # fmt: skip
    with pytest.raises(Exception, match=FOUND), pretended_gpus():
        VERBS["decode"]()


def refused(mode: Pretended) -> list:
    x, y = torch.ones(2, device="cuda"), torch.ones(2)
    assert x.device == torch.device("cuda", 0)
    assert (x + 1).device.type == (x + torch.tensor(2.0)).device.type == "cuda"
    assert x[torch.tensor([0])].cpu().numpy().tolist() == [1.0]
    assert mode.counts["copies"] == 2
    other = torch.ones(2, device="cuda:1")
    return [
        lambda: x + y,
        lambda: x + other,
        lambda: y[x.long()],
        lambda: x.numpy(),
        lambda: np.asarray(x),
        lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
        lambda: x.clone().normal_(generator=torch.Generator()),
    ]


def test_the_pretended_gpu_refuses_what_a_gpu_refuses() -> None:
    with pretended_gpus(2) as mode:
        for wrong in refused(mode):
            with pytest.raises(MixUpError):
                wrong()
    assert torch.ones(1).device.type == "cpu"


def test_gradients_go_back_to_where_a_tensor_was() -> None:
    with pretended_gpus() as mode:
        x = torch.ones(3, requires_grad=True)
        (x.to("cuda") * 2).sum().backward()
        assert x.grad is not None
        assert x.grad.device.type == "cpu"
        assert x.grad.tolist() == [2.0, 2.0, 2.0]
        assert mode.counts["waits"] == 0


ANALYSES = {
    "archetypes": lambda device: {
        x.name: x.model.relative_error
        for x in fs.find_archetypes(
            checkpoint(), archetypes=2, layers=["one"], max_iter=2, device=device
        ).layers.values()
    },
    "fabricate": lambda device: observed(fs.fabricate, device, norm_match=True),
    "pack": lambda device: observed(fs.pack, device),
}


def observed(verb, device: str, **options) -> dict[str, float]:
    found = []
    short = {"n_init": 1, "max_iter": 2, "layers": ["two"], "archetypes": 2}
    made = verb(checkpoint(), device=device, observe=found.append, **short, **options)
    for change in made.changes:
        if change.tensor in made:
            made[change.tensor].raw()
    return {layer.name: layer.error for layer in found}


@pytest.mark.parametrize("verb", ANALYSES)
def test_archetypes_of_a_verb_are_found_on_the_device(
    verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A search as short as it can be, which still removes an archetype.
    for name, value in {"_NARROW_WAYS": ((1, 1),), "SWEEPS": 1, "SWEEPS_BETWEEN": 1}.items():
        monkeypatch.setattr(elimination, name, value)
    expected = ANALYSES[verb]("cpu")
    with pretended_gpus() as mode:
        found = ANALYSES[verb]("cuda")
        assert mode.ran > 100
        with pretended_gpus() as other:
            ANALYSES[verb]("auto")
        assert other.ran == 0
    assert found == pytest.approx(expected, rel=1e-2)


def test_archetypes_of_layers_are_found_side_by_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = {"n_init": 1, "max_iter": 4}
    here = fs.rank(checkpoint(), "archetype", options=short)
    called = []
    real = fs.archetypes.archetypal_analysis_batch
    from filtersurgeon.ranking.methods import archetype

    def batch(layers, counts, **options):
        called.append((len(layers), options["device"]))
        return real(layers, counts, **options)

    monkeypatch.setattr(archetype, "archetypal_analysis_batch", batch)
    with pretended_gpus() as mode:
        there = fs.rank(checkpoint(), "archetype", options=short, device="cuda")
    assert called == [(3, "cuda")]
    assert mode.ran > 100
    for name, layer in here.layers.items():
        other = there.layers[name]
        assert other.statistics["error"] == pytest.approx(layer.statistics["error"], rel=1e-2)
        assert sorted(other.order) == list(range(16))
    with pretended_gpus(), pytest.raises(OptionError, match="l2 computes on the CPU"):
        fs.rank(checkpoint(), "l2", device="cuda")


def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert devices.best_device() == "cpu"
    assert devices.find_device("auto") == torch.device("cpu")
    assert devices.find_accelerator("auto") is None
    assert fs.diagnose().device == "cpu"
    with pretended_gpus(2):
        assert devices.best_device() == "cuda:0"
        assert str(devices.find_device("cuda:1")) == "cuda:1"
        assert fs.diagnose().device == "cuda:0"


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "auto:1", ""])
def test_unknown_devices_are_refused(name: str) -> None:
    with pytest.raises(OptionError, match=f"device '{name}' is unknown"):
        devices.check_device_name(name)


def find_turn(**_: int) -> dict:
    """Say which GPU a job takes; runs in a worker."""
    devices.accelerators = lambda: ("cuda:0", "cuda:1")
    return {"device": devices.best_device(), "process": os.getpid()}


def test_a_job_takes_the_gpu_of_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "accelerators", lambda: ("cuda:0", "cuda:1"))
    monkeypatch.setitem(devices._TURN, "job", 0)
    taken = []
    monkeypatch.setattr(jobs, "_run", lambda calls, _: taken.extend(calls) or iter([{}] * 5))
    run_jobs(find_turn, [{"number": k} for k in range(5)], JobSettings(jobs=3))
    assert [turn for *_, turn in taken] == [0, 1, 2, 0, 1]
    assert [jobs._call(*call)["device"][-1] for call in taken] == list("01001")


@pytest.mark.slow
def test_jobs_side_by_side_take_gpus_in_turn() -> None:
    found = run_jobs(find_turn, [{"number": k} for k in range(4)], JobSettings(jobs=2))
    assert [each["device"] for each in found] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert all(each["process"] != os.getpid() for each in found)


def test_a_network_is_compiled_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def compile(network: nn.Module) -> nn.Module:
        compiled.append(type(network).__name__)
        return network

    monkeypatch.setattr(torch, "compile", compile)
    recipe = fs.TrainingRecipe(lr=1e-3)
    for wanted in (False, True):
        run = fs.RunSettings(epochs=1, batch_size=12, compile=wanted)
        fs.tune(checkpoint(), fs.TrainingImages(images(), images()), recipe, run)
    assert compiled == ["Small"]


def test_the_check_on_a_gpu_says_what_differs_and_what_failed_first() -> None:
    numbers = {"x": np.array([1.0, -2.0])}
    assert gpu_check.describe_difference(numbers, {"x": numbers["x"] * 1.001}, False) == (
        "differ by at most 1.0e-03"
    )
    with pytest.raises(AssertionError, match=r"x: differs by 0\.2 of 2"):
        gpu_check.describe_difference(numbers, {"x": numbers["x"] * 1.1}, False)
    with pytest.raises(AssertionError, match="x: numbers that are not finite"):
        gpu_check.describe_difference(numbers, {"x": numbers["x"] * np.nan}, True)
    right = gpu_check.attempt("right", lambda: "as expected")
    wrong = gpu_check.attempt("wrong", lambda: 1 / 0)
    assert (right.passed, wrong.passed) == (True, False)
    assert wrong.words.startswith("ZeroDivisionError (test_devices.py:")
    lines = gpu_check.page([right, wrong], "a GPU").splitlines()
    assert lines[0] == "Measured on a GPU."
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| wrong", "| right"]


def test_what_does_not_begin_in_time_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    now = time.monotonic()
    todo = [("short", 0.0, lambda: "done"), ("long", 500.0, lambda: 1 / 0)]
    checks, left_out = gpu_check.run_in_time(todo, now + 100)
    assert [check.words for check in checks] == ["done"]
    assert len(left_out) == 1
    assert left_out[0].endswith("s are left, 500 s are needed")
    assert gpu_check.page(checks, "a GPU", left_out).endswith(f"Left out: {left_out[0]}.\n")
    assert "left out long" in capsys.readouterr().out


def test_images_of_the_study_are_packed_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2501, 32, 32, 3), dtype=np.uint8)
    packed = gpu_study.pack_images("train", pixels, np.arange(2501))
    assert sorted(packed) == ["train/0", "train/2500", "train/labels"]
    found, labels = gpu_study.unpack_images("train", packed)
    np.testing.assert_array_equal(found, pixels)
    np.testing.assert_array_equal(labels, np.arange(2501))


@pytest.mark.parametrize(
    "words",
    [
        ["replace", "m.safetensors", "--bank", "dog8", "--dry-run"],
        ["bank", "search", "m.safetensors", "--bank", "dog8", "--criterion", "error"],
        ["initialize", "m.safetensors", "-m", "ones", "--dry-run"],
    ],
)
def test_a_device_is_refused_where_no_network_runs(words: list[str]) -> None:
    found = CliRunner().invoke(app, [*words, "--device", "cuda"])
    assert isinstance(found.exception, OptionError)
    assert str(found.exception) == "--device needs --data"


def test_packing_by_a_bank_takes_no_device() -> None:
    with pytest.raises(OptionError, match="packing by a bank stays on the CPU"):
        fs.pack(checkpoint(), bank="dog8", device="cuda")
