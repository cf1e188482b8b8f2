"""The recipe beside a folder: it repeats what made it, or says what it needs."""

import os

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

import filtersurgeon as fs
from filtersurgeon.checkpoint import HistoryEntry
from filtersurgeon.checkpoint.sinks import recipe_text
from filtersurgeon.errors import OptionError
from filtersurgeon.recipe import read_recipe


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _checkpoint() -> fs.Checkpoint:
    random = np.random.default_rng(0)
    weights = {"dw.weight": random.standard_normal((8, 1, 5, 5)).astype("f4"),
               "pw.weight": np.ones((8, 8, 1, 1), "f4")}  # fmt: skip
    save_file(weights, "m.safetensors")
    return fs.load("m.safetensors")


def test_a_bank_file_is_named_with_its_digest_and_the_recipe_repeats_the_work():
    kernels = np.random.default_rng(4).standard_normal((4, 5, 5))
    bank = fs.FilterBank("own", kernels, tuple("abcd"))
    os.mkdir("elsewhere")
    fs.save_bank(bank, "elsewhere/own.safetensors")
    edited = fs.replace(_checkpoint(), bank="elsewhere/own.safetensors")
    text = recipe_text(edited)
    note, *_ = text.splitlines()
    assert note.startswith("# Step 1 (replace) used ")
    assert '"own"' in note
    assert bank.digest in note
    assert yaml.safe_load(text) == {"steps": [{"replace": {"bank": "own"}}]}
    # As the comment says.
    with open("recipe.yaml", "w") as file:
        file.write(text.replace("bank: own", "bank: elsewhere/own.safetensors"))
    assert fs.apply(_checkpoint(), "recipe.yaml").digest == edited.digest


def test_training_is_told_apart_and_refused_with_the_way_on():
    history = (HistoryEntry("replace", {"bank": "dog8"}), HistoryEntry("tune", {"epochs": 3}))
    base = _checkpoint()
    text = recipe_text(fs.Checkpoint(base.tensors, history=history))
    assert text.startswith("# Step 2 (tune) uses training images")
    with open("recipe.yaml", "w") as file:
        file.write(text)
    with pytest.raises(OptionError, match=r"step 2: tune learns from images.*run fsurgeon tune"):
        read_recipe("recipe.yaml")


def test_a_strangers_name_cannot_leave_its_comment():
    entry = HistoryEntry("replace", resources={"x\nsteps: [evil]": "y\u2028\nz: 1"})
    text = recipe_text(fs.Checkpoint(_checkpoint().tensors, history=(entry,)))
    assert yaml.safe_load(text) == {"steps": [{"replace": {}}]}
    assert len(text.splitlines()) == 3


@pytest.mark.parametrize(
    "number", ["0x" + "f" * 20_000, "0b" + "1" * 20_000, ":".join(["59"] * 5000), "9" * 5000]
)
def test_integers_that_cannot_be_printed_are_refused(tmp_path, number):
    path = tmp_path / "r.yaml"
    path.write_text(f"steps: [fabricate: {{seed: {number}}}]")
    with pytest.raises(OptionError, match=r"cannot read recipe .*digit"):
        read_recipe(path)


@pytest.mark.parametrize(
    "text", ["steps: [", "steps: &a [*b]", "a: 1\n\tb: 2", "!!python/name:os.x"]
)
def test_a_recipe_that_is_no_yaml_is_refused_by_its_line(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(OptionError) as refused:
        read_recipe(path)
    assert str(refused.value).startswith(f"cannot read recipe {path}: ")
    assert "unicode string" not in str(refused.value)
    assert "\n" not in str(refused.value)
