"""``fsurgeon eval`` as its users meet it."""

import json

import pytest
from small_data import LENET, write_folders
from small_data import digits as digits  # a fixture

EVAL = ("eval", "le.safetensors", *LENET, "--data", "digits.npz")


@pytest.mark.usefixtures("digits")
def test_counts_as_json_in_a_pipe(fsurgeon):
    done = fsurgeon(*EVAL)
    found = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, b"note: reads the test split of digits.npz\n")
    assert found["schema"] == "filtersurgeon.evaluation/2"
    # As the zoo's README says.
    assert (found["top1"], found["top1_count"], found["n_images"]) == (354 / 360, 354, 360)
    assert not {"class_images", "class_correct", "confusion"} & found.keys()
    low, high = found["interval95"]
    assert round(low, 4) == 0.9641
    assert round(high, 4) == 0.9923


@pytest.mark.usefixtures("digits")
def test_counts_of_classes_are_in_the_json_on_request(fsurgeon):
    found = json.loads(fsurgeon(*EVAL, "--per-class", "--confusion", "--min-top1", 0.9).stdout)
    assert (sum(found["class_correct"]), sum(found["class_images"])) == (354, 360)
    assert sum(map(sum, found["confusion"])) == 360


@pytest.mark.usefixtures("digits")
def test_a_table_and_a_limit_that_does_not_hold(fsurgeon):
    done = fsurgeon(*EVAL, "--table", "--per-class", "--confusion", "--min-top1", "99%")
    shown = done.stdout.decode()
    assert done.returncode == 1
    assert done.stderr.splitlines()[1:] == [b"top-1 is 98.33 %, below 99 %"]
    assert "98.33 %  (354 of 360)" in shown
    assert "96.41 to 99.23 %" in shown
    assert "per class" in shown
    confused = shown.partition("most confused")[2].splitlines()
    cells = [line.split() for line in confused if line.split() and line.split()[0].isdecimal()]
    assert sum(int(times) for *_, times in cells) == 6
    assert "taken for" in shown


def test_a_pipe_colour_images_and_a_result_file(digits, fsurgeon):
    write_folders(digits / "images", "0123456789", mode="RGB")
    words = ("--data", "images", "-o", "found.json", "--subset", 5, "--min-top1", 0)
    done = fsurgeon("eval", *LENET, *words, input=(digits / "le.safetensors").read_bytes())
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"note: colour images converted to grey, such as 0/0.png" in done.stderr
    assert json.loads((digits / "found.json").read_text())["n_images"] == 5


REFUSALS = {
    "no data": ((), "--data"),
    "a class count that differs": (("--data", "abc"), "3 classes but the network's head has 10"),
    "an empty folder": (("--data", "empty"), "holds no class directories"),
    "an unknown dataset": (("--data", "cifar1"), "did you mean cifar10"),
    "a split": (("--data", "digits.npz", "--split", "tset"), "did you mean test"),
    "a device": (("--data", "digits.npz", "--device", "cdua"), "did you mean cuda"),
    "labels of no folder": (("--data", "digits.npz", "--labels", "x.csv"), "labels belong to"),
    "a root of no dataset": (("--data", "digits.npz", "--root", "."), "root is where"),
    "a preprocessing word": (("--data", "digits.npz", "--preprocess", "meen=3"), "mean"),
    "a size": (
        ("--data", "digits.npz", "--preprocess", "input_size=1,32,32"),
        "le.safetensors fails on these images",
    ),
    "a size of one number": (
        ("--data", "digits.npz", "--preprocess", "input_size=32"),
        "channels, height and width",
    ),
    "a percentage": (("--data", "digits.npz", "--min-top1", "120"), "from 0 to 1, or 0% to 100%"),
    "a backend": (("--data", "digits.npz", "--backend", "dusk"), "did you mean dask"),
    "an address": (("--data", "digits.npz", "--address", "x"), "dask or ray"),
    "an output that exists": (("--data", "digits.npz", "-o", "old.json"), "--force"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(digits, refuse, case):
    words, expected = REFUSALS[case]
    write_folders(digits / "abc", "abc")
    (digits / "empty").mkdir()
    (digits / "old.json").write_text("{}")
    assert expected in refuse("eval", "le.safetensors", *LENET, *words)


def test_jobs_need_a_file(digits, refuse):
    content = (digits / "le.safetensors").read_bytes()
    words = ("eval", *LENET, "--data", "digits.npz", "--jobs", 2)
    assert "not a pipe" in refuse(*words, input=content)


@pytest.mark.slow
def test_shards_that_were_done_are_taken_from_the_cache(digits, fsurgeon):
    words = (*EVAL, "--jobs", 2, "--cache", "cache")
    whole = json.loads(fsurgeon(*words).stdout)
    assert (whole["top1_count"], whole["n_images"]) == (354, 360)
    # One shard is forgotten, the other one changed: it must be read, not done again.
    forgotten, kept = sorted((digits / "cache").iterdir())
    forgotten.unlink()
    part = json.loads(kept.read_text())
    kept.write_text(json.dumps({**part, "top1_count": part["top1_count"] - 100}))
    again = json.loads(fsurgeon(*words).stdout)
    assert again["top1_count"] == 254
    assert forgotten.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("digits")
@pytest.mark.parametrize("backend", ["dask", "ray"])
def test_a_cluster_of_two_workers(fsurgeon, backend):
    pytest.importorskip({"dask": "distributed", "ray": "ray"}[backend])
    jobs = ("--jobs", 2, "--backend", backend)
    done = fsurgeon(*EVAL, *jobs)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["top1_count"] == 354


@pytest.mark.slow
@pytest.mark.parametrize(("blocks", "right"), [(20, 9173), (56, 9339)])
def test_published_counts_of_the_cifar_networks(shared_data, fsurgeon, blocks, right):
    done = fsurgeon(
        "eval", shared_data / f"weights/cifar10_resnet{blocks}.safetensors",
        "--factory", f"examples.zoo.networks:cifar_resnet{blocks}",
        "--data", shared_data / "cifar10/test.npz", "--batch-size", 128,
        "--preprocess", "mean=.485,.456,.406", "--preprocess", "std=.229,.224,.225",
    )  # fmt: skip
    assert json.loads(done.stdout)["top1_count"] == right


@pytest.mark.slow
def test_photographs_through_timms_own_preprocessing(shared_data, fsurgeon):
    done = fsurgeon(
        "eval", shared_data / "weights/tf_efficientnet_lite0.safetensors",
        "--arch", "tf_efficientnet_lite0", "--data", shared_data / "imagenet_sample",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["top1_count"], found["top5_count"], found["n_images"]) == (438, 487, 500)
