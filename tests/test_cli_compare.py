"""``fsurgeon compare`` as its users meet it."""

import json
import re

import pytest
from small_data import LENET, ZOO, write_network
from small_data import digits as digits  # a fixture


def test_a_file_does_not_differ_from_itself(digits, fsurgeon):
    words = ("compare", "le.safetensors", "le.safetensors", *LENET)
    done = fsurgeon(*words, "--random", 8, "--max-diff", 0, "--latency-runs", 3)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert found["schema"] == "filtersurgeon.comparison/2"
    assert found["difference"]["relative_max"] == 0
    assert found["difference"]["n_inputs"] == 8
    side = found["first"]
    assert side["file_bytes"] == (digits / "le.safetensors").stat().st_size
    assert side["parameters"] == 61_706
    # 6 filters of 1x5x5 on 28x28, 16 of 6x5x5 on 10x10, and three linear layers.
    assert side["macs"] == 6 * 25 * 784 + 16 * 150 * 100 + 400 * 120 + 120 * 84 + 84 * 10
    latency = side["latency"]
    assert 0 < latency["low_ms"] <= latency["median_ms"] <= latency["high_ms"]
    assert (latency["runs"], latency["device"]) == (3, "cpu")


def test_replaced_filters_differ_and_it_says_by_how_much(digits, fsurgeon):
    replaced = fsurgeon("replace", "le.safetensors", "--all-spatial", "-q")
    words = ("compare", "le.safetensors", *LENET, "--random", 8, "--max-diff", "1e-6")
    words += ("--picture", "both.png", "--table", "--latency-runs", 0)
    done = fsurgeon(*words, input=replaced.stdout)
    assert done.returncode == 1
    told = re.fullmatch(r"outputs differ by up to (\S+) \(relative\), allowed 1e-06\n",
                        done.stderr.decode())  # fmt: skip
    assert float(told[1]) > 0.01
    assert told[1] in done.stdout.decode()
    assert "latency" not in done.stdout.decode()
    assert (digits / "both.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("digits")
def test_a_drop_of_accuracy_is_told_in_points(fsurgeon):
    other = ZOO / "lenet5_mnist.safetensors"
    words = ("compare", "le.safetensors", other, *LENET, "--data", "digits.npz")
    done = fsurgeon(*words, "--max-drop", "3%", "--latency-runs", 0)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    first, second = (found[side]["evaluation"]["top1_count"] for side in ("first", "second"))
    assert first == 354
    drop = (first - second) / 3.60
    assert f"top-1 drops by {drop:.2f} percentage points, allowed 3" in done.stderr.decode()
    assert found["difference"]["n_inputs"] == 360


def test_networks_of_two_architectures(digits, fsurgeon):
    tensors = write_network(digits / "other.safetensors", "depthwise")
    words = ("compare", "le.safetensors", "other.safetensors", *LENET)
    done = fsurgeon(
        *words, "--factory-against", "mine:depthwise", "--random", 4, "--latency-runs", 0
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["second"]["parameters"] == sum(t.numel() for t in tensors.values())
    assert found["first"]["parameters"] == 61_706
    assert b"both see images as le.safetensors expects them" in done.stderr


REFUSALS = {
    "nothing to compare on": ((), "exactly one of --data and --random"),
    "two things to compare on": (("--data", "digits.npz", "--random", 3), "exactly one of"),
    "a subset of nothing": (("--random", 3, "--subset", 2), "--subset needs --data"),
    "a drop without labels": (("--random", 3, "--max-drop", 3), "pass labelled images"),
    "a drop that may be a share": (("--max-drop", "0.5"), "0.5 is ambiguous; write 0.5% or 50%"),
    "a limit that is no number": (("--random", 3, "--max-diff", "nan"), "--max-diff"),
    "a picture": (("--random", 3, "--picture", "a.txt"), ".png"),
    "a device": (("--random", 3, "--device", "gpu"), "device 'gpu' is unknown"),
    "another class count": (("--random", 3, "--factory-b", "mine:three"), "10 classes"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(digits, refuse, case):
    words, expected = REFUSALS[case]
    write_network(digits / "three.safetensors", "three")
    second = "three.safetensors" if "mine:three" in words else "le.safetensors"
    assert expected in refuse("compare", "le.safetensors", second, *LENET, *words)


def test_two_pipes_are_one_too_many(digits, refuse):
    content = (digits / "le.safetensors").read_bytes()
    words = ("compare", "-", "-", *LENET, "--random", 3)
    assert "only one of A and B" in refuse(*words, input=content)
