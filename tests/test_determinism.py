"""The same work gives the same bytes, by whatever way it is asked for."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

import filtersurgeon as fs


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def bank(tmp_path):
    """A bank file of 5x5 kernels."""
    kernels = np.random.default_rng(4).standard_normal((4, 5, 5))
    fs.save_bank(fs.FilterBank("own", kernels, tuple("abcd")), tmp_path / "own.safetensors")
    return "own.safetensors"


@pytest.mark.parametrize(
    "words",
    [
        ["replace"],
        ["replace", "--all-spatial", "--dry-run"],
        ["rank", "-m", "random", "--seed", "3"],
        ["rank", "-m", "archetype"],
        ["rank", "-m", "geometric-median", "--annotate"],
        ["inspect"],
    ],
)
def test_a_command_run_twice_prints_the_same(model, fsurgeon, words):
    one, two = fsurgeon(*words, model), fsurgeon(*words, model)
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout
    assert one.stdout


def test_outputs_name_neither_path_nor_time(model, tmp_path, fsurgeon):
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere/other_name.safetensors"
    copy.write_bytes(model.read_bytes())
    assert fsurgeon("replace", model).stdout == fsurgeon("replace", copy).stdout
    assert str(tmp_path).encode() not in fsurgeon("replace", model).stdout


def test_a_recipe_is_the_pipeline_of_its_commands(model, bank, fsurgeon):
    steps = [
        {"replace": {"bank": "dog8", "layers": ["blocks.2.dw"]}},
        {"replace": {"bank": bank, "layers": ["!blocks.2.dw"], "all_spatial": True}},
    ]
    with open("r.yaml", "w") as file:
        yaml.safe_dump({"steps": steps}, file)
    first = fsurgeon("replace", model, "--layers", "blocks.2.dw").stdout
    second = fsurgeon(
        "replace", "--bank", bank, "--layers", "!blocks.2.dw", "--all-spatial", input=first
    )
    applied = fsurgeon("apply", "r.yaml", model)
    assert applied.returncode == 0, applied.stderr
    assert applied.stdout == second.stdout
    checkpoint = fs.apply(fs.load(model), "r.yaml")
    fs.save(checkpoint, "python.safetensors")
    with open("python.safetensors", "rb") as file:
        assert file.read() == applied.stdout


@pytest.mark.parametrize("text", ["steps: [replace]", "steps: [replace: ]", "steps: [replace: {}]",
                                  "steps: [replace: {bank: dog8}]"])  # fmt: skip
def test_a_step_without_options_has_the_defaults_of_the_command(model, fsurgeon, text):
    with open("r.yaml", "w") as file:
        file.write(text)
    assert fsurgeon("apply", "r.yaml", model).stdout == fsurgeon("replace", model).stdout


def test_the_plan_of_a_recipe(model, fsurgeon):
    with open("r.yaml", "w") as file:
        file.write("steps: [replace: {bank: dog8, layers: blocks.10}]")
    done = fsurgeon("apply", "r.yaml", model, "--dry-run")
    assert json.loads(done.stdout)["changes"] == [
        {
            "tensor": "blocks.10.dw.weight",
            "before": [16, 1, 5, 5],
            "after": [16, 1, 5, 5],
            "why": "closest linear transform of dog8",
        }
    ]


def test_a_plan_names_tensors_in_the_order_of_the_network():
    checkpoint = fs.untrained("timm:resnet10t")
    changes = fs.prune(checkpoint, per_layer=True, sparsity=0.3).changes
    named = [change.tensor for change in changes]
    assert named == [name for name in checkpoint.tensors if name in set(named)]
    assert len(named) > 20


def test_the_digest_of_a_checkpoint_depends_on_its_tensors_alone(tensors):
    save_file(tensors, "one.safetensors", {"note": "x"})
    save_file(dict(reversed(tensors.items())), "two.safetensors")
    digests = {fs.load(path).digest for path in ("one.safetensors", "two.safetensors")}
    assert len(digests) == 1
    import torch

    torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, "three.pt")
    digests.add(fs.load("three.pt").digest)
    assert len(digests) == 1
    tensors["head.bias"][0] += 1
    save_file(tensors, "four.safetensors")
    assert fs.load("four.safetensors").digest not in digests


def test_history_holds_the_digest_of_the_first_input_only(model, fsurgeon):
    once = fsurgeon("replace", model, "--layers", "blocks.2").stdout
    with open("twice.safetensors", "wb") as file:
        file.write(fsurgeon("replace", "--layers", "blocks.10", input=once).stdout)
    history = json.loads(fsurgeon("inspect", "twice.safetensors").stdout)["history"]
    assert [entry["options"]["layers"] for entry in history] == [["blocks.2"], ["blocks.10"]]
    assert history[0]["input"] == fs.load(model).digest
    assert "input" not in history[1]


def test_untouched_tensors_and_strangers_metadata_are_carried_along(tensors, fsurgeon):
    tensors["head.weight"].view(np.uint32)[0, :3] = [0x7FC00001, 0xFF800001, 0x80000000]
    save_file(tensors, "m.safetensors", {"format": "pt", "author": "somebody ✓"})
    assert fsurgeon("replace", "m.safetensors", "-o", "out.safetensors").returncode == 0
    after = load_file("out.safetensors")
    for name in tensors.keys() - {"blocks.2.dw.weight", "blocks.10.dw.weight"}:
        assert after[name].tobytes() == tensors[name].tobytes()
    with fs.load("out.safetensors") as checkpoint:
        assert checkpoint.annotations == {"author": "somebody ✓"}


@pytest.mark.parametrize("picture", ["p.png", "p.svg", "p.pdf"])
def test_pictures_are_the_same_every_time(model, fsurgeon, picture):
    found = []
    for _ in range(2):
        done = fsurgeon("replace", model, "--dry-run", "--picture", picture, "--force")
        assert done.returncode == 0, done.stderr
        with open(picture, "rb") as file:
            found.append(file.read())
    assert found[0] == found[1]
    assert len(found[0]) > 1000


def test_a_recipe_without_steps_passes_the_tensors_on(model, fsurgeon):
    Path("empty.yaml").write_text("steps: []\n")
    fsurgeon("apply", "empty.yaml", model, "-o", "same.safetensors")
    assert fs.load("same.safetensors").digest == fs.load(model).digest
    assert not fs.load("same.safetensors").history
