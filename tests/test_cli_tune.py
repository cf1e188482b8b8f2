"""``fsurgeon tune`` as its users meet it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_data import LENET, ZOO, write_folders, write_network
from small_data import digits as digits  # a fixture

TUNE = ("tune", "le.safetensors", *LENET, "--data", "digits.npz", "--subset", 128)
ROOT = Path(__file__).parents[1]


def _metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_the_same_command_writes_the_same_bytes(digits, fsurgeon):
    words = (*TUNE, "--epochs", 1, "--device", "cpu", "--preprocess", "mean=0.2")
    done = fsurgeon(*words, "-o", "out.safetensors", "--run", "run")
    assert (done.returncode, done.stdout) == (0, b""), done.stderr
    assert b"epoch 1: loss" in done.stderr
    assert (
        (digits / "run/log.csv")
        .read_text()
        .startswith("epoch,lr,train_loss,loss,accuracy,metric\n1,")
    )
    assert (digits / "run/log.png").exists()
    streamed = fsurgeon(*words, "--quiet")
    assert streamed.stderr == b""
    assert streamed.stdout == (digits / "out.safetensors").read_bytes()
    about = _metadata(digits / "out.safetensors")
    step = json.loads(about["history"])[0]
    assert step["verb"] == "tune"
    assert step["options"] == {"epochs": 1, "subset": 128, "preprocess": {"mean": [0.2]}}
    assert step["data"] == {"name": "digits.npz", "split": "train"}
    cfg = json.loads(about["pretrained_cfg"])
    assert cfg["mean"] == [0.2]
    assert cfg["std"] == [0.3081]
    assert str(digits) not in json.dumps(about)


def test_depthwise_filters_gain_one_number_per_kernel_even_from_scratch(digits, fsurgeon):
    before = write_network(digits / "net.safetensors", "depthwise")
    words = ("tune", "net.safetensors", "--factory", "mine:depthwise", "--data", "digits.npz")
    words += ("--epochs", 2, "--scratch", "--freeze", "depthwise", "--lr", 0.01)
    done = fsurgeon(*words, "-o", "out.safetensors")
    assert done.returncode == 0, done.stderr
    assert b"frozen: 1 layers" in done.stderr
    after = load_file(digits / "out.safetensors")
    assert after.keys() == before.keys()
    change = (after["1.weight"] - before["1.weight"]).flatten(2)
    assert (change - change.mean(2, keepdim=True)).abs().max() < 1e-6
    assert change.mean(2).abs().max() > 1e-3
    for name in ("0.weight", "5.weight"):
        assert (after[name] - before[name]).abs().max() > 0.01


def test_spatial_filters_keep_their_bits_and_tensors_their_types(digits, fsurgeon):
    tensors = load_file(digits / "le.safetensors")
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(half, digits / "half.safetensors", _metadata(digits / "le.safetensors"))
    words = ("tune", "half.safetensors", *LENET, "--data", "digits.npz", "--subset", 64)
    done = fsurgeon(*words, "--epochs", 1, "--freeze", "spatial", "-o", "out.safetensors")
    assert done.returncode == 0, done.stderr
    after = load_file(digits / "out.safetensors")
    for name, tensor in half.items():
        assert after[name].dtype == torch.float16
        assert torch.equal(after[name], tensor) == (name in ("conv1.weight", "conv2.weight")), name


def test_a_new_classifier_is_found_again(digits, fsurgeon):
    write_folders(digits / "images", "abc", 4)
    words = ("tune", "le.safetensors", *LENET, "--data", "images", "--validation", "images")
    done = fsurgeon(*words, "--epochs", 1, "--classes", 3, "-o", "out.safetensors")
    assert done.returncode == 0, done.stderr
    assert load_file(digits / "out.safetensors")["fc3.weight"].shape == (3, 84)
    assert json.loads(_metadata(digits / "out.safetensors")["pretrained_cfg"])["num_classes"] == 3
    found = fsurgeon("eval", "out.safetensors", *LENET, "--data", "images")
    assert json.loads(found.stdout)["n_images"] == 12


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_network(digits, fsurgeon):
    words = (*TUNE, "--epochs", 1, "--lr", "1e20", "--run", "run", "-o", "out.safetensors")
    done = fsurgeon(*words)
    message = done.stderr.decode()
    assert done.returncode == 2
    assert message.startswith("error: the loss is nan at epoch 1, step 2; ")
    assert message.count("\n") == 1
    assert not (digits / "out.safetensors").exists()
    before, kept = (
        load_file(digits / name) for name in ("le.safetensors", "run/last_good.safetensors")
    )
    assert before.keys() == kept.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())


REFUSALS = {
    "no data": (("--data", ""), "--data is empty"),
    "a protocol": (("--freeze", "depthwize"), "did you mean depthwise"),
    "nothing to freeze": (("--freeze", "depthwise"), "no such convolution"),
    "an optimiser": (("--optimizer", "adamv"), "did you mean adam"),
    "a learning rate": (("--lr", "nan"), "lr must be positive"),
    "a parameter": (("-p", "weight_dekay=1"), "did you mean weight_decay"),
    "a parameter out of range": (("-p", "momentum=2"), "below 1"),
    "augmentation that is off": (("-p", "scale=0.5,1"), "add --augment"),
    "augmentation out of range": (("--augment", "-p", "hflip=2"), "probability"),
    "a run to go on with": (("--resume",), "--run DIR"),
    "states without a place": (("--checkpoint-steps", 3), "--run DIR"),
    "patience without images": (("--data", "x.npz", "--patience", 1), "patience needs"),
    "a precision": (("--precision", "fp16"), "needs a GPU"),
    "a class count": (("--data", "abc"), "3 classes but the network's head has 10"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(digits, refuse, case):
    words, expected = REFUSALS[case]
    write_folders(digits / "abc", "abc")
    np.savez(digits / "x.npz", x=np.zeros((4, 28, 28), np.uint8), y=np.zeros(4, int))
    assert expected in refuse(*TUNE, "--device", "cpu", "-o", "out.safetensors", *words)


def test_an_existing_output_and_a_shared_pipe(digits, refuse, monkeypatch):
    (digits / "out.safetensors").write_bytes(b"old")
    assert "--force" in refuse(*TUNE, "-o", "out.safetensors")
    monkeypatch.setenv("WORLD_SIZE", "2")
    content = (digits / "le.safetensors").read_bytes()
    words = ("tune", *LENET, "--data", "digits.npz", "-o", "new.safetensors")
    assert "pass a file" in refuse(*words, input=content)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes(digits, fsurgeon, command):
    words = [*TUNE, "--epochs", 40, "--device", "cpu", "--batch-size", 16, "--augment"]
    words += ["--checkpoint-steps", 3, "--freeze", "spatial"]
    killed = [*command, *map(str, words), "--run", "a", "-o", "a.safetensors"]
    process = subprocess.Popen(killed, stderr=subprocess.DEVNULL)
    while not (digits / "a/state.pt").exists() and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (digits / "a.safetensors").exists()
    resumed = fsurgeon(*words, "--run", "a", "--resume", "-o", "a.safetensors")
    whole = fsurgeon(*words, "--run", "b", "-o", "b.safetensors")
    assert (resumed.returncode, whole.returncode) == (0, 0)
    assert (digits / "a.safetensors").read_bytes() == (digits / "b.safetensors").read_bytes()
    assert (digits / "a/log.csv").read_bytes() == (digits / "b/log.csv").read_bytes()
    other = fsurgeon(*words, "--lr", 0.5, "--run", "a", "--resume", "-o", "c.safetensors")
    assert b"was started with lr 0.001, not 0.5" in other.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_does(digits, fsurgeon):
    words = (*TUNE, "--epochs", 2, "--device", "cpu", "--optimizer", "sgd", "--lr", "0.01")
    one = fsurgeon(*words, "-o", "one.safetensors")
    assert one.returncode == 0, one.stderr
    # On CPUs accelerate's own launcher would start one process.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    launch += ["-m", "filtersurgeon", *map(str, words), "-o", "two.safetensors"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = subprocess.run(launch, capture_output=True, check=False, env=environment)
    assert two.returncode == 0, two.stderr
    assert two.stdout == b""
    assert two.stderr.count(b"epoch 2: loss") == 1
    first, second, start = (
        load_file(digits / f"{name}.safetensors") for name in ("one", "two", "le")
    )
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=1e-4, atol=1e-6), name
    assert not torch.allclose(first["fc1.weight"], start["fc1.weight"], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_example_regains_what_replacing_costs(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        pixels = random.integers(0, 256, (64, 32, 32, 3), dtype=np.uint8)
        np.savez(tmp_path / f"{part}.npz", x=pixels, y=np.arange(64) % 10)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    monkeypatch.setenv("FSURGEON", f"{sys.executable} -m filtersurgeon")
    script = ["sh", "examples/regain.sh", tmp_path / "train.npz", tmp_path / "test.npz"]
    done = subprocess.run(
        [*script, tmp_path / "out", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("top-1") >= 3
    before, after = (
        load_file(tmp_path / "out" / f"{name}.safetensors") for name in ("replaced", "tuned")
    )
    for name, tensor in before.items():
        if name.endswith("conv_dw.weight"):
            change = (after[name] - tensor).flatten(2)
            assert (change - change.mean(2, keepdim=True)).abs().max() < 1e-6


@pytest.mark.slow
def test_x_plus_b_regains_half_of_the_lost_accuracy(shared_data, tmp_path, fsurgeon):
    """On a tenth of the images of docs/training.md, which holds the figures of the whole."""
    factory = ("--factory", "examples.zoo.networks:convnext_small_images")
    test = shared_data / "cifar10/test.npz"
    original, replaced, tuned = (
        ZOO / "convnext_cifar10.safetensors", tmp_path / "r.safetensors", tmp_path / "t.safetensors"
    )  # fmt: skip
    assert fsurgeon("replace", original, "--bank", "dog8", "-o", replaced).returncode == 0
    words = ("--data", shared_data / "cifar10/train_10k.npz", "--subset", 2000, "--epochs", 5)
    words += ("--freeze", "depthwise", "-p", "clip_grad=1", "-o", tuned)
    done = fsurgeon("tune", replaced, *factory, *words)
    assert done.returncode == 0, done.stderr
    accuracies = [
        json.loads(fsurgeon("eval", path, *factory, "--data", test, "--subset", 2000).stdout)[
            "accuracy"
        ]
        for path in (original, replaced, tuned)
    ]
    assert accuracies[2] - accuracies[1] > 0.5 * (accuracies[0] - accuracies[1])
