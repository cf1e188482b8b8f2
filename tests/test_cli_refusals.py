"""Bad usage and bad input at the command line: one line, code 2, and no trace in the folder."""

import json
import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_network
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

import filtersurgeon as fs

VERBS = {
    "inspect": ["inspect"],
    "rank": ["rank", "--method", "l2"],
    "replace": ["replace", "--bank", "dog8", "-o", "out.safetensors"],
}


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    """Run every test in its own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=VERBS)
def verb(request):
    """Give the words of a verb, with an output in the folder where it has one."""
    return VERBS[request.param]


# What is not a checkpoint


def test_a_truncated_file(verb, model, refuse):
    model.write_bytes(model.read_bytes()[:-100])
    assert "truncated" in refuse(*verb, model)


def test_a_header_longer_than_the_file(verb, model, refuse):
    content = model.read_bytes()
    model.write_bytes(struct.pack("<Q", len(content) + 1) + content[8:])
    assert "truncated" in refuse(*verb, model)


def test_a_corrupt_header(verb, model, refuse):
    content = model.read_bytes()
    model.write_bytes(content[:20] + b"\0" + content[21:])
    assert "corrupt" in refuse(*verb, model)


@pytest.mark.parametrize("content", [b"", b"hello", b"\0" * 4096, os.urandom(4096)])
def test_a_file_that_is_no_checkpoint(verb, tmp_path, refuse, content):
    (tmp_path / "notes.txt").write_bytes(content)
    assert "notes.txt" in refuse(*verb, "notes.txt")


def test_a_missing_file(verb, refuse):
    assert "absent.safetensors: no such file" in refuse(*verb, "absent.safetensors")


def test_an_empty_folder(verb, tmp_path, refuse):
    (tmp_path / "net").mkdir()
    assert "model.safetensors" in refuse(*verb, "net")


@pytest.mark.parametrize(
    "config",
    ["{", "[]", '{"architecture": 3}', '{"pretrained_cfg": "abc"}', '{"pretrained_cfg": 3}'],
)
def test_a_folder_with_a_corrupt_config(verb, tmp_path, model, refuse, config):
    (tmp_path / "net").mkdir()
    model.rename(tmp_path / "net/model.safetensors")
    (tmp_path / "net/config.json").write_text(config)
    assert "config.json" in refuse(*verb, "net")


def test_a_device(verb, refuse):
    refuse(*verb, "/dev/null")


def test_an_empty_pipe_and_no_pipe(verb, fsurgeon, refuse):
    done = fsurgeon(*verb, input=b"")
    assert (done.returncode, done.stdout) == (2, b"")
    told = "note: standard input is empty: the command before the pipe wrote nothing\n"
    assert done.stderr.decode() == told  # an error was printed by that command
    assert "standard input is empty" in refuse(*verb, "-")


def test_a_truncated_pipe(verb, model, refuse):
    assert "truncated" in refuse(*verb, "-", input=model.read_bytes()[:-1])


def test_a_pipe_with_more_than_a_checkpoint(verb, model, refuse):
    assert "more bytes" in refuse(*verb, "-", input=model.read_bytes() + bytes(100_000))


def test_pickled_code(verb, tmp_path, refuse):
    torch.save(torch.nn.Conv2d(1, 1, 3), "net.pt")
    assert "--allow-pickle" in refuse(*verb, "net.pt")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(print))
    assert "raw.pkl" in refuse(*verb, "raw.pkl")
    assert "--allow-pickle" in refuse(*verb, input=(tmp_path / "net.pt").read_bytes())


@pytest.mark.parametrize(
    "spec", ["timm:resnet1", "torchvision:resnet1", "timm:resnet18.no_such_tag"]
)
def test_a_network_that_no_library_knows(refuse, spec):
    assert "resnet1" in refuse("inspect", spec)


# Weights that cannot be analysed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("words", [["rank", "-m", "l2"], ["replace"]])
def test_a_layer_with_non_finite_weights_is_named(tensors, refuse, value, words):
    tensors["blocks.10.dw.weight"][3, 0, 1, 1] = value
    save_file(tensors, "m.safetensors")
    output = ["-o", "out.safetensors"] if words == ["replace"] else []
    message = refuse(*words, "m.safetensors", *output)
    assert "blocks.10.dw" in message
    assert "NaN or infinite" in message
    assert "--layers '!blocks.10.dw'" in message


def test_non_finite_weights_elsewhere_pass(tensors, fsurgeon):
    tensors["head.weight"][0] = np.nan
    tensors["blocks.2.pw.weight"][0] = np.inf
    tensors["stem.weight"][0] = np.nan
    save_file(tensors, "m.safetensors")
    assert fsurgeon("replace", "m.safetensors", "-o", "out.safetensors").returncode == 0
    assert fsurgeon("rank", "m.safetensors", "-m", "l1", "--layers", "!stem").returncode == 0


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
@pytest.mark.parametrize("words", [["rank", "-m", "l2"], ["replace", "-o", "out.safetensors"]])
def test_a_layer_of_a_type_that_is_not_computed_with_is_named(refuse, dtype, words):
    import safetensors.torch

    weights = {"stem.weight": torch.ones(8, 3, 3, 3), "dw.weight": torch.ones(8, 1, 3, 3).to(dtype)}
    safetensors.torch.save_file(weights, "m.safetensors")
    assert "layer dw" in refuse(*words, "m.safetensors")


def test_a_network_without_convolutions(verb, refuse):
    save_file({"fc.weight": np.ones((3, 4), np.float32)}, "m.safetensors")
    if verb[0] != "inspect":
        assert "convolution" in refuse(*verb, "m.safetensors")


# Outputs


def test_an_existing_output(tmp_path, model, refuse, fsurgeon):
    (tmp_path / "out.safetensors").write_text("precious")
    assert "--force" in refuse("replace", model, "-o", "out.safetensors")
    assert fsurgeon("replace", model, "-o", "out.safetensors", "--force").returncode == 0
    assert (tmp_path / "out.safetensors").stat().st_size > 1000


@pytest.mark.parametrize(
    "words",
    [["inspect"], ["rank", "-m", "l2"]],
)
def test_an_existing_result_file(tmp_path, model, refuse, fsurgeon, words):
    (tmp_path / "out.json").write_text("precious")
    assert "--force" in refuse(*words, model, "-o", "out.json")
    assert fsurgeon(*words, model, "-o", "out.json", "--force").returncode == 0
    assert json.loads((tmp_path / "out.json").read_text())["layers"]


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("how", ["same", "dotted", "symlink", "hardlink"])
def test_the_input_as_output(tmp_path, model, refuse, how, force):
    output = {"same": "m.safetensors", "dotted": "./x/../m.safetensors"}.get(how, "b.safetensors")
    (tmp_path / "x").mkdir()
    if how == "symlink":
        (tmp_path / output).symlink_to(model)
    if how == "hardlink":
        (tmp_path / output).hardlink_to(model)
    assert "input" in refuse("replace", "m.safetensors", "-o", output, *force)


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_the_redirected_input_as_output(model, refuse, force):
    with model.open("rb") as stdin:
        refuse("replace", "-o", "m.safetensors", *force, stdin=stdin)


@pytest.mark.parametrize("force", [[], ["--force"]])
@pytest.mark.parametrize("weights", ["model.safetensors", "weights.safetensors", "shards"])
def test_the_input_folder_as_output(tmp_path, model, refuse, force, weights):
    net = tmp_path / "net"
    net.mkdir()
    if weights == "shards":
        table = {
            "weight_map": dict.fromkeys(("stem.weight", "blocks.2.dw.weight"), "a.safetensors")
        }
        (net / "model.safetensors.index.json").write_text(json.dumps(table))
        weights = "a.safetensors"
    model.rename(net / weights)
    (net / "config.json").write_text('{"architecture": "timm:lcnet_050"}')
    assert "input" in refuse("replace", "net", "-o", "net", *force)
    assert "input" in refuse("replace", "net", "-o", "net/", *force)
    assert "input" in refuse("replace", "net", "-o", f"net/{weights}", *force)


def test_other_files_of_a_folder_are_not_replaced_unasked(tmp_path, model, refuse, fsurgeon):
    (tmp_path / "net").mkdir()
    for name in ("config.json", "recipe.yaml"):
        (tmp_path / "net" / name).write_text("precious")
        words = ["replace", model, "--arch", "lcnet_050", "-o", "net/"]
        assert "--force" in refuse(*words)
        (tmp_path / "net" / name).unlink()
    assert fsurgeon(*words).returncode == 0


def _older_weights(net: Path, kind: str) -> list[str]:
    """Put weights of another kind into a folder; gives the names of their files."""
    net.mkdir()
    (net / "config.json").write_text('{"architecture": "lcnet_050"}')
    state = {name: torch.from_numpy(array) for name, array in small_network(seed=9).items()}
    first, second = dict(list(state.items())[:5]), dict(list(state.items())[5:])
    if kind == "alone":
        save_file(small_network(seed=9), net / "weights.safetensors")
        return ["weights.safetensors"]
    if not kind.endswith("index.json"):
        torch.save(state, net / kind)
        return [kind]
    pattern = kind.removesuffix(".index.json").replace(".", "-0000{}-of-00002.")
    for number, part in enumerate((first, second), 1):
        if kind.startswith("model"):
            save_torch(part, net / pattern.format(number))
        else:
            torch.save(part, net / pattern.format(number))
    table = {name: pattern.format(1 if name in first else 2) for name in state}
    (net / kind).write_text(json.dumps({"weight_map": table}))
    return [kind, pattern.format(1), pattern.format(2)]


@pytest.mark.parametrize(
    "kind",
    ["model.safetensors.index.json", "pytorch_model.bin.index.json", "pytorch_model.bin",
     "model.pth", "alone"],
)  # fmt: skip
def test_a_folder_output_replaces_the_weights_that_the_folder_was_read_from(
    tmp_path, model, refuse, fsurgeon, kind
):
    files = _older_weights(tmp_path / "net", kind)
    (tmp_path / "net/notes.txt").write_text("precious")
    with fs.load(tmp_path / "net") as old:
        assert np.array_equal(old["head.weight"].array(), small_network(seed=9)["head.weight"])
    words = ["initialize", model, "--arch", "lcnet_050", "--method", "ones", "-o", "net/"]
    assert "--force" in refuse(*words)
    (tmp_path / "net/config.json").unlink()
    if kind != "alone":  # without a config.json, a file of any name is not the folder's weights
        assert any(name in refuse(*words) for name in files)
    (tmp_path / "net/config.json").write_text("{}")
    assert fsurgeon(*words, "--force").returncode == 0
    with fs.load(tmp_path / "net") as new:
        assert new.history
        assert np.array_equal(new["head.weight"].array(), small_network()["head.weight"])
        assert (new["stem.weight"].array() == 1).all()
    left = {path.name for path in (tmp_path / "net").iterdir()}
    assert left == {"config.json", "model.safetensors", "recipe.yaml", "notes.txt"}


def test_a_stale_index_is_not_read_beside_whole_weights(tmp_path, model):
    _older_weights(tmp_path / "net", "model.safetensors.index.json")
    model.rename(tmp_path / "net/model.safetensors")
    with fs.load(tmp_path / "net") as found:
        assert np.array_equal(found["head.weight"].array(), small_network()["head.weight"])


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_shard_of_the_output_folder_as_input(tmp_path, refuse, force):
    _, shard, _ = _older_weights(tmp_path / "net", "model.safetensors.index.json")
    words = ["replace", f"net/{shard}", "--arch", "lcnet_050", "-o", "net/"]
    assert "input" in refuse(*words, *force)


def test_an_index_cannot_have_other_files_removed(tmp_path, model, fsurgeon):
    net = tmp_path / "net"
    _older_weights(net, "model.safetensors.index.json")
    (net / "notes.txt").write_text("precious")
    (tmp_path / "outside.safetensors").write_text("precious")
    table = {"a": "notes.txt", "b": "../outside.safetensors"}
    (net / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    words = ["replace", model, "--arch", "lcnet_050", "-o", "net/", "--force"]
    assert fsurgeon(*words).returncode == 0
    assert (net / "notes.txt").exists()
    assert (tmp_path / "outside.safetensors").exists()
    assert not (net / "model.safetensors.index.json").exists()


def test_a_folder_is_read_back(tmp_path, model, monkeypatch):
    """What takes the place of the weights as soon as they are written is found."""
    from filtersurgeon.checkpoint import sinks

    def spoilt(checkpoint, path, header, folder):
        path.write_bytes(b"\0" * 100)
        return read_back(checkpoint, path, header, folder)

    read_back = sinks._read_back
    monkeypatch.setattr(sinks, "_read_back", spoilt)
    with pytest.raises(fs.FilterSurgeonError, match="does not read back"):
        fs.save(fs.load(model, arch="timm:lcnet_050"), f"{tmp_path}/net/")


@pytest.mark.parametrize(
    "words",
    [
        ["replace", "m.safetensors", "-o", ""],
        ["replace", "m.safetensors", "--output="],
        ["inspect", "m.safetensors", "-o", ""],
        ["explain", "m.safetensors", "--picture", ""],
        ["bank", "show", "dog8", "-o", ""],
        ["report", "m.safetensors", "-o", ""],
        ["inspect", ""],
        ["prune", "m.safetensors", "--sparsity", "0.5", "--ranking", "", "-o", "x.safetensors"],
    ],
)
def test_empty_words(model, refuse, words):
    """``-o "$OUT"`` with a variable that is not set would mean the working folder."""
    assert model.exists()
    assert "empty" in refuse(*words)


def test_empty_paths_in_python(model):
    with pytest.raises(fs.FilterSurgeonError, match="empty"):
        fs.save(fs.load(model, arch="timm:lcnet_050"), "")
    with pytest.raises(fs.FilterSurgeonError, match="empty"):
        fs.load("")


@pytest.mark.parametrize("output", ["nowhere/out.safetensors", "nowhere/net/"])
def test_a_missing_output_folder(model, refuse, output):
    assert "nowhere" in refuse("replace", model, "--arch", "lcnet_050", "-o", output)


@pytest.mark.parametrize("output", ["out.pt", "out", "out.json", "/dev/null"])
def test_an_output_that_is_not_safetensors(model, refuse, output):
    assert output in refuse("replace", model, "-o", output)


def test_a_folder_for_an_unknown_architecture(tmp_path, model, refuse):
    assert "--arch" in refuse("replace", model, "-o", "net/")
    assert not (tmp_path / "net").exists()


def test_a_read_only_folder(tmp_path, model, refuse):
    """Root may write anywhere, so the folder is mounted read-only."""
    folder = tmp_path / "closed"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o500)
        assert "closed" in refuse("replace", model, "-o", "closed/out.safetensors")
        return
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder]).returncode:
        pytest.skip("no way to close a folder here")
    try:
        assert "closed" in refuse("replace", model, "-o", "closed/out.safetensors")
        assert "closed" in refuse("inspect", model, "-o", "closed/out.json")
        assert "closed" in refuse("replace", model, "--arch", "lcnet_050", "-o", "closed/net/")
    finally:
        subprocess.run(["umount", folder], check=True)


# Words


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["rank", "m.safetensors", "--method", "geometric-medain"], "geometric-median"),
        (["rank", "m.safetensors", "--method", "L2"], "l2"),
        (["rank", "m.safetensors", "-m", "geometric-median", "-p", "center=point"], "centre"),
        (["rank", "m.safetensors", "-m", "geometric-median", "-p", "centre=pont"], "point"),
        (["rank", "m.safetensors", "-m", "geometric-median", "-p", "centre"], "-p name=value"),
        (["rank", "m.safetensors", "-m", "l2", "-p", "power=3"], "no options"),
        (["rank", "m.safetensors", "-m", "random", "-p", "seed=3"], "seed"),
        (["rank", "m.safetensors", "-m", "l2", "--seed", "x"], "seed"),
        (["rank", "m.safetensors", "-m", "l2", "--layers", "blocks.2.dv"], "blocks.2.dw"),
        (["rank", "m.safetensors", "-m", "l2", "--layers", "!stm"], "stem"),
        (["rank", "m.safetensors", "-m", "l2", "--layers", "*", "--layers", "!*"], "--layers"),
        (["rank", "m.safetensors", "-m", "l2", "-o", "out.txt"], ".json"),
        (["replace", "m.safetensors", "--bank", "dog9", "-o", "o.safetensors"], "dog8"),
        (["replace", "m.safetensors", "--layers", "blocks.2.d"], "blocks.2.dw"),
        (["replace", "m.safetensors", "--layers", "stem", "-o", "o.safetensors"], "--all-spatial"),
        (["replace", "m.safetensors", "--layers", "", "-o", "o.safetensors"], "--layers is empty"),
        (["replace", "m.safetensors", "--picture", "p.bmp", "-o", "o.safetensors"], ".png"),
        (["replace", "m.safetensors", "--bnak", "dog8"], "--bank"),
        (["replace", "m.safetensors", "x.safetensors"], "x.safetensors"),
        (["replce", "m.safetensors"], "replace"),
        (["bank", "show", "dog9"], "dog8"),
        (["bank", "show", "dog8", "--size", "4"], "4"),
        (["bank", "show", "dog8", "--size", "-3"], "--size"),
        (["bank", "show", "dog8", "-o", "bank.txt"], "bank.txt"),
        (["bank", "shw", "dog8"], "show"),
        (["inspect", "m.safetensors", "--arch", "resnet1"], "resnet1"),
        (["inspect", "m.safetensors", "--arch", "keras:resnet18"], "timm:NAME"),
        (["inspect", "m.safetensors", "--layers", "dw"], "dw"),
        (["inspect", "m.safetensors", "--format=x"], "--format"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("model")
def test_a_wrong_word_is_answered_with_the_right_one(refuse, words, hint):
    assert hint in refuse(*words)


def test_a_wrong_architecture_names_a_tensor_and_both_shapes(refuse):
    import filtersurgeon as fs
    from filtersurgeon.checkpoint.vision import import_timm

    state = import_timm().create_model("lcnet_050").state_dict()
    save_file({name: tensor.numpy() for name, tensor in state.items()}, "m.safetensors")
    message = refuse("inspect", "m.safetensors", "--arch", "lcnet_075")
    assert "timm:lcnet_075" in message
    assert "[8, 3, 3, 3]" in message
    assert "conv_stem.weight" in message
    assert fs.load("m.safetensors", arch="lcnet_050").architecture == "timm:lcnet_050"


def test_a_bank_whose_size_fits_no_layer(model, refuse):
    save_file({"kernels": np.eye(9, dtype=np.float64).reshape(1, 9, 9)}, "b.safetensors")
    message = refuse("replace", model, "--bank", "b.safetensors", "-o", "out.safetensors")
    assert "3x3, 5x5" in message


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": np.ones((2, 3, 3)), "b": np.ones((2, 3, 3))},
        {"kernels": np.ones((3, 3))},
        {"kernels": np.ones((0, 3, 3))},
        {"kernels": np.full((2, 3, 3), np.nan)},
        {"kernels": np.ones((2, 3, 3), np.int32)},
    ],
)
def test_a_file_that_is_no_bank(model, refuse, tensors):
    save_file(tensors, "b.safetensors")
    refuse("replace", model, "--bank", "b.safetensors", "-o", "out.safetensors")
    refuse("bank", "show", "b.safetensors")


@pytest.mark.parametrize(
    "recipe",
    [
        "",
        "steps",
        "steps: {replace: {}}",
        "steps: [{replace: 3}]",
        "steps: [{replace: {bank: dog8}, rank: {}}]",
        "steps: [{replace: {bnk: dog8}}]",
        "steps: [{replace: {bank: dog9}}]",
        "steps: [{replace: {bank: 8}}]",
        "steps: [{replace: {bank: [dog8, 8]}}]",
        "steps: [{replace: {layers: stem}}]",
        "steps: [{replace: {bank: dog8, layers: blocks.2.dw.none}}]",
        "steps: [{replace: {bank: dog8, layers: 5}}]",
        "steps: [{replace: {bank: dog8, layers: [5]}}]",
        "steps: [{replace: {bank: dog8, all_spatial: perhaps}}]",
        "steps: [{replace: {bank: dog8, observe: print}}]",
        "steps: [{replce: {bank: dog8}}]",
        "steps: [{1: {}}]",
        "steps: [!!python/object/apply:os.system ['touch marker']]",
        "steps: [{replace: {bank: dog8",
        "\0",
        "a: &a [*a]",
    ],
)
def test_a_wrong_recipe(tmp_path, model, refuse, recipe):
    (tmp_path / "r.yaml").write_text(recipe)
    refuse("apply", "r.yaml", model, "-o", "out.safetensors")


def test_a_missing_recipe(model, refuse):
    assert "none.yaml" in refuse("apply", "none.yaml", model, "-o", "out.safetensors")
    assert "." in refuse("apply", ".", model, "-o", "out.safetensors")


# Debugging


def test_debug_shows_the_traceback_and_the_line(fsurgeon):
    done = fsurgeon("inspect", "absent.safetensors", "--debug")
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert lines[0].startswith("Traceback")
    assert lines[-1].startswith("error: absent.safetensors")
