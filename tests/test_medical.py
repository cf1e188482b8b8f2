"""Networks for several labels and for masks through the commands, and the example of both."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import filtersurgeon as fs
from examples import medical

EXAMPLE = Path(medical.__file__)
UNET = ("unet.safetensors", "--factory", "examples.medical:UNet")
FINDER = ("finder.safetensors", "--factory", "examples.medical:Finder")


def test_the_example_prunes_both_networks(tmp_path, capsys):
    example = runpy.run_path(str(EXAMPLE))
    example["main"].__globals__["IMAGES"] = 64
    scores = example["main"](str(tmp_path), 3)
    said = capsys.readouterr().out
    assert scores["cells"][0] > 0.8
    assert scores["cells"][1] > 0.8
    assert scores["findings"][1] > 0.6
    assert said.count("Ranking(method='saliency'") == 2
    for name, score in (("unet", "mean Dice %"), ("finder", "mean ROC AUC %")):
        assert f"{name}.html: History, Size and speed, Accuracy, Layers, Kernels, Spectra, " in said
        assert "Ranking" in said.partition(f"{name}.html:")[2].splitlines()[0]
        assert score in (tmp_path / f"{name}.html").read_text("utf-8")
    tuned = fs.load(tmp_path / "unet.safetensors")
    assert tuned["first.0.weight"].shape == (5, 1, 3, 3)
    assert [entry.verb for entry in tuned.history] == ["tune", "prune", "tune"]
    named = fs.load(tmp_path / "finder.safetensors").pretrained_cfg["label_names"]
    assert named == ["horizontal", "vertical", "disc", "ring"]


@pytest.fixture
def networks(tmp_path, monkeypatch):
    """Enter a folder with both networks, images, a CSV file of labels, and masks."""
    monkeypatch.chdir(tmp_path)
    fs.save(fs.load(medical.UNet(), example_inputs=medical.SIZE), "unet.safetensors")
    fs.save(fs.load(medical.Finder(), example_inputs=medical.SIZE), "finder.safetensors")
    random = np.random.default_rng(0)
    lines = ["Path,Sex,Age,A,B,C,D"]
    for number in range(6):
        name = f"{number}.png"
        Path("images").mkdir(exist_ok=True)
        Path("masks").mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (48, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(f"images/{name}")
        Image.fromarray((pixels > 128).astype(np.uint8) * 255).save(f"masks/{name}")
        lines.append(f"{name},Male,{50 + number},{number % 2},-1,{'' if number else 1},1.0")
    Path("labels.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("networks")
def test_eval_of_a_csv_file_with_a_column_for_each_class(fsurgeon):
    done = fsurgeon("eval", *FINDER, "--data", "images", "--labels", "labels.csv", "--min-score", 0)
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert found["schema"] == "filtersurgeon.multilabel-evaluation/1"
    assert found["names"] == ["A", "B", "C", "D"]
    assert (found["known"], found["positive"]) == ([6, 0, 1, 6], [3, 0, 1, 6])
    assert found["roc_auc"][1:] == [None] * 3
    assert found["mean_roc_auc"] == found["roc_auc"][0]


@pytest.mark.slow
@pytest.mark.usefixtures("networks")
def test_a_step_of_each_command_on_masks(fsurgeon):
    data = ("--data", "images", "--labels", "masks")
    done = fsurgeon("tune", *UNET, *data, "--epochs", 1, "--batch-size", 2, "-p", "dice_weight=0",
                    "--validation", "images", "--validation-labels", "masks", "--augment", "-p",
                    "hflip=0.5", "--device", "cpu", "-o", "tuned.safetensors")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b", mean Dice " in done.stderr
    done = fsurgeon("prune", "tuned.safetensors", *UNET[1:], *data, "--sparsity", 0.3,
                    "--per-layer", "--dry-run", "--json")  # fmt: skip
    worth = json.loads(done.stdout)["worth"]
    assert worth["metric"] == "mean Dice"
    assert 0 <= worth["score"][1] <= 1


REFUSALS = {
    "classes that do not fit": (
        ("eval", *FINDER, "--data", "images", "--labels", "labels.csv", "--columns", "A,C"),
        "--columns names 2 classes but the network has 4 outputs",
    ),
    "no class column": (
        ("eval", *FINDER, "--data", "images", "--labels", "bare.csv"),
        "name the columns of the classes with --columns",
    ),
    "masks of another size": (
        ("eval", *UNET, "--data", "images", "--labels", "small"),
        "the mask has 24x24 pixels and the image 48x48",
    ),
    "masks with other classes": (
        ("eval", *UNET, "--data", "images", "--labels", "other"),
        "the mask holds class 7, and the network has 1 output (classes 0 to 1)",
    ),
    "outputs of another size": (
        ("tune", "inner.safetensors", "--factory", "nets:inner", "--data", "images", "--labels",
         "masks", "-o", "x.safetensors"),
        "outputs of 44x44 pixels, and the masks have 48x48",
    ),
    "several labels on a softmax": (
        ("eval", "soft.safetensors", "--factory", "nets:soft", "--data", "images", "--labels",
         "labels.csv"),
        "ends in a softmax, which gives each image one class",
    ),
    "a limit for classes": (
        ("eval", *UNET, "--data", "images", "--labels", "masks", "--min-top1", "50%"),
        "--min-score",
    ),
    "columns of no file": (("eval", *UNET, "--data", "images", "--columns", "A"), "--labels"),
    "an analysis of classes": (
        ("bank", "search", *UNET, "--bank", "dog8", "--data", "images", "--labels", "masks", "-o",
         "x.safetensors"),
        "the labels are masks, and this needs one class for each image",
    ),
}  # fmt: skip

NETS = """
from torch import nn
from examples.medical import Finder

def inner():
    return nn.Sequential(nn.Conv2d(1, 2, 5))

def soft():
    return nn.Sequential(Finder(), nn.Softmax(1))
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(networks, refuse, case, monkeypatch):
    words, expected = REFUSALS[case]
    Path("bare.csv").write_text("Path,Sex\n0.png,Male\n")
    Path("nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(networks)
    nets = runpy.run_path("nets.py")
    for name in ("inner", "soft"):
        fs.save(fs.load(nets[name](), example_inputs=medical.SIZE), f"{name}.safetensors")
    for folder, values in (("small", np.ones((24, 24))), ("other", np.full((48, 48), 7))):
        Path(folder).mkdir()
        for number in range(6):
            Image.fromarray(values.astype(np.uint8)).save(f"{folder}/{number}.png")
    assert expected in refuse(*words)
