"""Inputs and outputs of any kind, stated on the command line and kept in the file."""

import importlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_data import write_folders
from torch import nn

import filtersurgeon as fs
from filtersurgeon.data.labels import names_of_classes
from filtersurgeon.errors import (
    ArchitectureError,
    CheckpointError,
    DataError,
    LayerError,
    OptionError,
    OutputError,
)
from filtersurgeon.exports import torch_format
from filtersurgeon.networks.in_memory import unbind
from filtersurgeon.networks.inputs import Input, read_inputs
from filtersurgeon.networks.outputs import choose_output

NETS = """
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self, classes=4):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.age = nn.Linear(1, 8)
        self.fc = nn.Linear(8, classes)

    def forward(self, image, *, age):
        x = self.b(self.a(image).relu()).relu().mean((2, 3))
        return self.fc(x + self.age(age))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Two()
        self.word = nn.Embedding(10, 4)

    def forward(self, batch):
        assert batch["mask"].dtype == torch.bool
        scores = self.net(batch["image"], age=batch["meta"]["age"])
        return scores + self.word(batch["word"])[:, 0]


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.first = nn.Linear(8, 3)
        self.second = nn.Linear(8, 2)

    def forward(self, x):
        maps = self.b(self.a(x).relu()).relu()
        x = maps.mean((2, 3))
        return {"heads": [self.first(x), self.second(x)], "maps": maps}


def two():
    return Two()


def words():
    return Words()


def heads():
    return Heads()
"""
SIZES = ("--input-size", "image=3,16,16", "--input-size", "age=1:float32")
CUT = ("--per-layer", "--sparsity", "0.4")


@pytest.fixture
def nets(tmp_path, monkeypatch):
    """A module of factories in the working directory, and the networks that it makes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_nets.py").write_text(NETS)
    import importlib
    import sys

    sys.modules.pop("own_nets", None)
    module = importlib.import_module("own_nets")
    torch.manual_seed(0)
    for name in ("two", "words", "heads"):
        torch.save(getattr(module, name)().state_dict(), f"{name}.pt")
    yield module
    sys.modules.pop("own_nets", None)


def _metadata(path):
    with safe_open(path, "pt") as file:
        return file.metadata()


# Sizes


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("3,224,224", [Input("", (3, 224, 224))]),
        ((3, 32), [Input("", (3, 32))]),
        ([1, 8, 8, 8], [Input("", (1, 8, 8, 8))]),
        (["2,16", "4:int64"], [Input("", (2, 16)), Input("", (4,), "int64")]),
        ("image=3,8,8 age=1:float32", [Input("image", (3, 8, 8)), Input("age", (1,))]),
        (
            {"batch.image": (3, 8, 8), "batch.ids": "5:int64"},
            [Input("batch.image", (3, 8, 8)), Input("batch.ids", (5,), "int64")],
        ),
    ],
)
def test_sizes_are_read(given, expected):
    assert list(read_inputs(given)) == expected


@pytest.mark.parametrize(
    "given",
    ["", "3,,4", "3,0,4", "x", "a b=3", "a=3 a=4", "3:float31", "4:int64", "a-b=3", "a=3 a.b=4",
     "-1,3", "99999,99999,99", [], {}, "3:float32:int8", "٣,٤"],
)  # fmt: skip
def test_sizes_that_cannot_be_read_are_refused(given):
    with pytest.raises(OptionError, match="`input_size`"):
        read_inputs(given)


@pytest.mark.usefixtures("nets")
def test_one_size_is_stored(fsurgeon):
    """A network without a description runs on the size that was stated, now and later."""
    words = ("--factory", "own_nets:heads")
    first = fsurgeon("prune", "heads.pt", *words, "--input-size", "3,12,20", *CUT,
                     "-o", "a.safetensors")  # fmt: skip
    assert first.returncode == 0, first.stderr
    found = fs.load("a.safetensors")
    assert found.pretrained_cfg == {"input_size": [3, 12, 20]}
    again = fsurgeon("export", "a.safetensors", "--allow-factory", "-o", "a.pt2")
    assert json.loads(again.stdout)["input_shape"] == [1, 3, 12, 20]
    other = fsurgeon("export", "a.safetensors", *words, "--input-size", "3,8,8", "-o", "b.pt2")
    assert json.loads(other.stdout)["input_shape"] == [1, 3, 8, 8]


# Several inputs


def test_several_inputs_are_stored(nets, fsurgeon, refuse):
    words = ("--factory", "own_nets:two")
    message = refuse("prune", "two.pt", *words, *CUT, "-o", "x.safetensors")
    assert "'age'" in message
    assert "--input-size" in message
    done = fsurgeon("prune", "two.pt", *words, *SIZES, *CUT, "-o", "a.safetensors")
    assert done.returncode == 0, done.stderr
    metadata = _metadata("a.safetensors")
    assert json.loads(metadata["inputs"]) == [
        ["image", [3, 16, 16], "float32"], ["age", [1], "float32"],
    ]  # fmt: skip
    assert metadata["factory"] == "own_nets:two"
    # The cut is exact: the original with the removed channels at zero gives the same.
    network = nets.two()
    network.load_state_dict(torch.load("two.pt"))
    slim = fs.build(fs.load("a.safetensors", allow_factory=True))
    image = torch.randn(1, 3, 16, 16)
    assert slim.a.out_channels < 8
    kept = [
        k for k, row in enumerate(network.a.weight)
        if any(torch.equal(row, other) for other in slim.a.weight)
    ]  # fmt: skip
    assert len(kept) == slim.a.out_channels
    with torch.no_grad():
        for k in set(range(8)) - set(kept):
            network.a.weight[k], network.a.bias[k] = 0, 0
        ages = slim.age.weight.flatten().tolist()
        for k in range(8):
            if float(network.age.weight[k]) not in ages:
                network.fc.weight[:, k] = 0
        # The age that the network is given by itself is drawn with a fixed seed.
        generator = torch.Generator().manual_seed(0)
        torch.randn(1, 3, 16, 16, generator=generator)
        age = torch.randn(1, 1, generator=generator)
        assert torch.allclose(slim(image), network(image, age=age), atol=1e-6)
        # A batch repeats it.
        images = torch.randn(5, 3, 16, 16)
        assert torch.allclose(slim(images), network(images, age=age.expand(5, 1)), atol=1e-6)


@pytest.mark.usefixtures("nets")
def test_inputs_in_dicts(fsurgeon):
    sizes = "batch.image=3,16,16 batch.meta.age=1 batch.word=1:int64 batch.mask=2:bool"
    words = ("--factory", "own_nets:words", "--input-size", sizes)
    done = fsurgeon("prune", "words.pt", *words, *CUT, "-o", "a.safetensors")
    assert done.returncode == 0, done.stderr
    compared = fsurgeon("compare", "words.pt", "a.safetensors", *words, "--random", "3",
                        "--latency-runs", "0")  # fmt: skip
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert 0 < found["difference"]["relative_max"] < 1
    assert found["second"]["macs"] < found["first"]["macs"]
    assert found["difference"]["n_inputs"] == 3


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("image=3,16,16", "'age'"),
        ("image=3,16,16 aged=1", "'aged'|'age'"),
        ("3,16,16 1", "positional"),
    ],
)
@pytest.mark.usefixtures("nets")
def test_inputs_that_the_network_does_not_take(size, words):
    checkpoint = fs.load("two.pt", arch="factory:own_nets:two", input_size=size)
    with pytest.raises(OptionError, match=f"forward of Two.*({words}).*`input_size`"):
        fs.prune(checkpoint, per_layer=True, sparsity=0.4)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.usefixtures("nets")
def test_several_inputs_are_exported_in_their_order(dynamic):
    checkpoint = fs.load(
        "two.pt", arch="factory:own_nets:two", input_size={"image": (3, 16, 16), "age": (1,)}
    )
    made = fs.export(checkpoint, "two.pt2", dynamic_batch=dynamic)
    assert made.inputs == ("image", "age")
    assert made.input_shape == (None if dynamic else 1, 3, 16, 16)
    assert made.difference.n_inputs == 4
    assert made.difference.relative_max < 1e-5
    # Other values of both inputs reach the exported network.
    count = 3 if dynamic else 1
    image, age = torch.randn(count, 3, 16, 16), torch.randn(count, 1)
    ((given,), (other,)) = [
        torch_format.run(Path("two.pt2").read_bytes(), [[image, years]]) for years in (age, age + 1)
    ]
    with torch.no_grad():
        network = fs.build(checkpoint)
        unbind(network)
        torch.testing.assert_close(given, network(image, age=age))
    assert not torch.allclose(given, other)


@pytest.mark.usefixtures("nets")
def test_inputs_in_dicts_are_exported_by_name():
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    sizes = ["batch.image=3,16,16", "batch.meta.age=1", "batch.word=1:int64", "batch.mask=2:bool"]
    checkpoint = fs.load("words.pt", arch="factory:own_nets:words", input_size=sizes)
    made = fs.export(checkpoint, "words.onnx", random=2)
    assert made.inputs == ("batch.image", "batch.meta.age", "batch.word", "batch.mask")
    assert made.difference.relative_max < 1e-5
    session = runtime.InferenceSession("words.onnx", providers=["CPUExecutionProvider"])
    taken = [given.name for given in session.get_inputs()]
    assert [name for name in made.inputs if name in taken] == taken
    assert {"batch.image", "batch.meta.age", "batch.word"} <= set(taken)


def test_a_module_with_several_inputs_is_exported_with_all_of_them(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)

        def forward(self, x, scale, power=1):
            return self.a(x) * scale**power

    inputs = (torch.randn(1, 3, 8, 8), torch.full((1,), 2.0), 2)
    made = fs.export(Scaled(), tmp_path / "m.pt2", example_inputs=inputs)
    assert made.inputs == ("x", "scale")
    assert made.difference.relative_max < 1e-5
    with pytest.raises(OptionError, match="do not say which of them grow with the batch"):
        fs.export(Scaled(), tmp_path / "n.pt2", example_inputs=inputs, dynamic_batch=True)


@pytest.mark.usefixtures("nets")
def test_a_new_size_replaces_the_inputs():
    checkpoint = fs.load("two.pt", input_size={"image": (3, 16, 16), "age": (1,)})
    fs.save(checkpoint, "a.safetensors")
    fs.save(fs.load("a.safetensors", input_size=(3, 8, 8)), "b.safetensors")
    assert "inputs" in _metadata("a.safetensors")
    assert "inputs" not in _metadata("b.safetensors")


@pytest.mark.parametrize(
    "text", ["{", "[]", "3", '[["a"]]', '[["a", [0], "float32"]]', '[["a", [3], "code"]]', "null"]
)
def test_corrupt_inputs_are_refused(tmp_path, text):
    save_file({"a": torch.ones(1)}, tmp_path / "m.safetensors", {"inputs": text})
    with pytest.raises(CheckpointError, match="corrupt metadata: inputs"):
        fs.load(tmp_path / "m.safetensors")


# What a file remembers


@pytest.mark.usefixtures("nets")
def test_a_factory_is_named_and_never_run_unasked(fsurgeon, refuse):
    Path("own_nets.py").write_text(NETS + "\nopen('ran', 'a').close()\n")
    words = ("--factory", "own_nets:heads", "--input-size", "3,16,16")
    assert fsurgeon("prune", "heads.pt", *words, *CUT, "-o", "a.safetensors").returncode == 0
    Path("ran").unlink()
    message = refuse("prune", "a.safetensors", *CUT, "-o", "b.safetensors")
    assert "pass --arch factory:own_nets:heads, or --allow-factory" in message
    # What needs no network needs no factory, and carries its name on.
    done = fsurgeon("replace", "a.safetensors", "--bank", "dct", "--all-spatial",
                    "-o", "c.safetensors")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not Path("ran").exists()
    done = fsurgeon("prune", "c.safetensors", "--allow-factory", *CUT, "-o", "d.safetensors")
    assert done.returncode == 0, done.stderr
    assert Path("ran").exists()
    assert _metadata("d.safetensors")["factory"] == "own_nets:heads"


def test_another_architecture_replaces_the_factory(tmp_path):
    checkpoint = fs.untrained("timm:test_resnet")
    fs.save(checkpoint.annotated("factory", "nowhere:make"), tmp_path / "a.safetensors")
    named = fs.load(tmp_path / "a.safetensors", arch="test_resnet")
    assert "factory" not in named.annotations
    fs.build(named)


def test_a_file_of_a_factory_is_not_taken_for_another_network():
    """Tensors may fit a network of timm that computes something else."""
    checkpoint = fs.untrained("timm:test_resnet")
    bare = fs.Checkpoint(checkpoint.tensors, annotations={"factory": "own:make"})
    with pytest.raises(ArchitectureError, match="`allow_factory`"):
        fs.build(bare)


@pytest.mark.usefixtures("nets")
def test_preprocessing_is_kept(fsurgeon):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 16, 16, 3), np.uint8)
    np.savez("data.npz", x_train=pixels, y_train=np.arange(8) % 2, x_test=pixels,
             y_test=np.arange(8) % 2)  # fmt: skip
    words = ("--factory", "own_nets:heads", "--output-name", "heads.1")
    stated = ("--preprocess", "mean=0.1,0.2,0.3", "--preprocess", "input_size=3,16,16")
    done = fsurgeon("rank", "heads.pt", *words, "-m", "saliency", "--data", "data.npz", *stated,
                    "--annotate")  # fmt: skip
    assert done.returncode == 0, done.stderr
    Path("r.safetensors").write_bytes(done.stdout)
    found = fs.load("r.safetensors", allow_factory=True)
    assert found.pretrained_cfg == {"mean": [0.1, 0.2, 0.3], "input_size": [3, 16, 16]}
    assert found.annotations["output"] == "heads.1"
    # And it is used: the same file asked again gives what stating it again gives.
    first, second = (
        json.loads(fsurgeon("eval", file, "--data", "data.npz", *more).stdout)
        for file, more in (
            ("r.safetensors", ("--allow-factory",)), ("heads.pt", (*words, *stated)),
        )
    )  # fmt: skip
    assert first["loss"] == second["loss"]
    other = fsurgeon("eval", "heads.pt", *words, stated[2], stated[3], "--data", "data.npz")
    assert json.loads(other.stdout)["loss"] != first["loss"]


# Outputs


@dataclass
class Answer:
    logits: torch.Tensor
    more: dict


def test_outputs_are_chosen_by_name():
    logits, deep = torch.ones(2, 3), torch.zeros(2, 4)
    answer = Answer(logits, {"deep": [deep, torch.ones(1)], "logits": deep})
    assert choose_output(answer, "logits") is logits
    assert choose_output(answer, "more.logits") is deep
    assert choose_output(answer, "deep.0") is deep
    assert choose_output((deep, logits), "1") is logits
    for name in ("nothing", "ogits", "more"):
        with pytest.raises(OutputError, match=rf"no output '{name}' but 4 tensors \(logits"):
            choose_output(answer, name)
    with pytest.raises(OutputError, match=r"several outputs 'x' \(a\.x, b\.x\)"):
        choose_output({"a": {"x": deep}, "b": {"x": deep}}, "x")


def test_detections_of_several_images():
    found = [{"boxes": torch.ones(3, 4) * k, "scores": torch.ones(3)} for k in range(2)]
    boxes = choose_output(found, "boxes")
    assert boxes.shape == (2, 3, 4)
    assert torch.equal(boxes[1], found[1]["boxes"])
    assert choose_output(found, "1.boxes") is found[1]["boxes"]
    found[1]["scores"] = torch.ones(5)
    with pytest.raises(OutputError, match="'scores' differs in shape from image to image"):
        choose_output(found, "scores")


def test_every_measurement_looks_at_the_output(nets, fsurgeon, refuse):
    pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
    labels = np.array([0, 1, 0, 1, 0, 1])
    np.savez("data.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    Image.fromarray(pixels[0]).save("i.png")
    words = ("--factory", "own_nets:heads", "--input-size", "3,16,16")
    message = refuse("eval", "heads.pt", *words, "--data", "data.npz")
    assert "choose the class scores with --output-name" in message
    message = refuse("eval", "heads.pt", *words, "--data", "data.npz", "--output-name", "logits")
    assert "no output 'logits' but 3 tensors (heads.0, heads.1, maps)" in message
    network = nets.heads()
    network.load_state_dict(torch.load("heads.pt"))
    network.pretrained_cfg = {"input_size": (3, 16, 16)}
    for place, count in (("heads.0", 3), ("heads.1", 2)):
        chosen = (*words, "--output-name", place)
        done = fsurgeon("eval", "heads.pt", *chosen, "--data", "data.npz", "--confusion")
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["confusion"]) == count
        done = fsurgeon("gradcam", "heads.pt", *chosen, "--image", "i.png", "--class", "1")
        assert done.returncode == 0, done.stderr
    done = fsurgeon("gradcam", "heads.pt", *chosen, "--image", "i.png", "--class", "2")
    assert done.returncode == 2
    # Saliency of a head that the first does not share.
    ranked = [
        fsurgeon("rank", "heads.pt", *words, "--output-name", place, "-m", "saliency", "--data",
                 "data.npz").stdout
        for place in ("heads.0", "heads.1")
    ]  # fmt: skip
    assert ranked[0] != ranked[1]


@pytest.mark.usefixtures("nets")
def test_a_comparison_looks_at_one_output(fsurgeon):
    """A change of one head is no difference of the other."""
    state = torch.load("heads.pt")
    state["second.weight"] *= 2
    torch.save(state, "other.pt")
    words = ("--factory", "own_nets:heads", "--input-size", "3,16,16", "--random", "2",
             "--latency-runs", "0")  # fmt: skip
    found = {}
    for place in (None, "heads.0", "heads.1", "maps"):
        chosen = ("--output-name", place) if place else ()
        done = fsurgeon("compare", "heads.pt", "other.pt", *words, *chosen)
        assert done.returncode == 0, done.stderr
        found[place] = json.loads(done.stdout)["difference"]["relative_max"]
    assert found["heads.0"] == found["maps"] == 0
    assert found[None] == found["heads.1"] > 0.1


@pytest.mark.usefixtures("nets")
def test_pruning_goes_by_all_outputs():
    """The head that measurements do not look at is cut as exactly as the other."""
    checkpoint = fs.load("heads.pt", arch="factory:own_nets:heads", output_name="heads.0",
                         input_size=(3, 16, 16))  # fmt: skip
    cut = fs.prune(checkpoint, per_layer=True, sparsity=0.5)
    network, slim = fs.build(checkpoint), fs.build(cut)
    image = torch.randn(1, 3, 16, 16)
    kept = [
        k for k, row in enumerate(network.a.weight)
        if any(torch.equal(row, other) for other in slim.a.weight)
    ]  # fmt: skip
    with torch.no_grad():
        for k in set(range(8)) - set(kept):
            network.a.weight[k], network.a.bias[k] = 0, 0
        expected, found = network(image), slim(image)
    assert found.keys() == {"heads", "maps"}
    for one, other in zip(expected["heads"], found["heads"], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_module_in_memory_has_a_chosen_output():
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = self.a(x).mean((2, 3))
            return {"scores": self.fc(x), "rest": x}

    checkpoint = fs.load(Pair(), example_inputs=(3, 8, 8), output_name="scores")
    images = fs.DataSpec("dashes", subset=4)
    found = fs.evaluate(checkpoint, images, preprocess={"input_size": (3, 8, 8)})
    assert found.n_images == 4


@pytest.mark.usefixtures("nets")
def test_tensors_are_written_as_they_were():
    """Statements about inputs and outputs change no tensor."""
    fs.save(fs.load("heads.pt", output_name="maps", input_size="3,8,8"), "m.safetensors")
    own = torch.load("heads.pt")
    assert all(torch.equal(tensor, own[k]) for k, tensor in load_file("m.safetensors").items())


# Names of classes


@pytest.mark.usefixtures("nets")
def test_names_of_classes_are_kept(fsurgeon):
    """Training on folders stores their names, which tables then show."""
    write_folders(Path("photos"), "cab", count=3, mode="RGB")
    words = ("--factory", "own_nets:heads", "--output-name", "heads.0", "--input-size", "3,16,16")
    done = fsurgeon("tune", "heads.pt", *words, "--data", "photos", "--epochs", "1",
                    "-o", "t.safetensors")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert fs.load("t.safetensors").pretrained_cfg["label_names"] == ["a", "b", "c"]
    shown = fsurgeon("eval", "t.safetensors", "--allow-factory", "--data", "photos", "--per-class",
                     "--table").stdout.decode()  # fmt: skip
    rows = [line.split()[:2] for line in shown.splitlines() if line.split()[1:2] == ["3"]]
    assert rows == [["a", "3"], ["b", "3"], ["c", "3"]]


def test_names_of_classes_need_a_folder_for_each():
    root = Path("/x")
    paths = [root / name for name in ("b/1.png", "a/deep/2.png", "b/3.png")]
    assert names_of_classes(paths, [1, 0, 1], root, 2) == ["a", "b"]
    assert names_of_classes(paths, [1, 0, 1], root, 3) == []
    assert names_of_classes(paths, [1, 0, 0], root, 2) == []
    assert names_of_classes(paths, [0, 0, 0], root, 1) == []
    assert names_of_classes([root / "1.png"], [0], root, 1) == []
    assert names_of_classes([root / "n01440764/1.png"], [0], root, 1) == []


# Signals and volumes


class Along(nn.Module):
    """Two convolutions along one axis, or three."""

    def __init__(self, axes: int) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 3: nn.Conv3d}[axes]
        self.a = convolution(2, 8, 3, padding=1)
        self.b = convolution(8, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.b(self.a(x).relu()).relu().flatten(2).mean(2))


SIDES = {1: (2, 32), 3: (2, 8, 8, 8)}


@pytest.fixture(params=[1, 3], ids=["signal", "volume"])
def along(request):
    """A network on signals or volumes, and its checkpoint."""
    torch.manual_seed(0)
    network = Along(request.param)
    return network, fs.load(network, example_inputs=SIDES[request.param])


def test_filters_along_other_axes_are_ranked(along):
    network, checkpoint = along
    ranking = fs.rank(checkpoint, "l1")
    for name in "ab":
        weight = network.get_submodule(name).weight.detach()
        scores = ranking.layers[name].statistics or {}
        order = weight.abs().flatten(1).sum(1).argsort(descending=True).tolist()
        assert list(ranking.layers[name].order) == order, scores
    assert fs.rank(checkpoint, "archetype").layers.keys() == {"a", "b"}
    inspected = fs.inspect(checkpoint).to_json()["layers"]
    assert [layer["kernel_size"] for layer in inspected] == [[3] * (network.a.weight.ndim - 2)] * 2
    # prune takes the ranking that is in the metadata.
    cut = fs.prune(ranking.annotate(checkpoint), per_layer=True, sparsity=0.5)
    kept = sorted(ranking.layers["a"].order[:4])
    assert torch.equal(cut["a.weight"].torch(), network.a.weight.detach()[kept])


def test_networks_on_other_inputs_are_compared_and_cut_to_a_target(along):
    _, checkpoint = along
    cut = fs.prune(checkpoint, target="macs=0.7x", method="l2")
    settings = fs.ComparisonSettings(latency_runs=0)
    found = fs.compare([checkpoint, cut], settings=settings, random=3)
    assert found.second.macs <= 0.7 * found.first.macs
    assert 0 < found.difference.relative_max < 10
    same = fs.compare([checkpoint, checkpoint], settings=settings, random=3)
    assert same.difference.relative_max == 0


def test_what_needs_kernels_of_images_says_so(along):
    network, checkpoint = along
    kind = f"{network.a.weight.ndim - 2}-D convolutions only"
    for run in (
        lambda: fs.replace(checkpoint, bank="dct", all_spatial=True),
        lambda: fs.fabricate(checkpoint),
        lambda: fs.pack(checkpoint),
        lambda: fs.initialize(checkpoint, method="ones"),
        lambda: fs.convert(checkpoint, bank="dct", module="pfm"),
        lambda: fs.explain(checkpoint),
        lambda: fs.kernel_scores(checkpoint, "l1"),
    ):
        with pytest.raises(LayerError, match=kind):
            run()


def test_what_needs_images_says_so(along, tmp_path):
    network, checkpoint = along
    size = ",".join(map(str, SIDES[network.a.weight.ndim - 2]))
    Image.new("RGB", (8, 8)).save(tmp_path / "i.png")
    image = str(tmp_path / "i.png")
    for run in (
        lambda: fs.decode(checkpoint),
        lambda: fs.maximize(checkpoint),
        lambda: fs.activations([checkpoint], [image]),
        lambda: fs.gradcam([checkpoint], [image]),
        lambda: fs.evaluate(checkpoint, "dashes"),
        lambda: fs.prune(checkpoint, target="macs=0.7x"),
    ):
        with pytest.raises(DataError, match=f"inputs of size {size}"):
            run()


HEAD_FIRST = """
from torch import nn


class HeadFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(8, 2, 1)
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.body = nn.Conv2d(12, 8, 3, padding=1)

    def forward(self, x):
        return self.head(self.body(self.stem(x).relu()).relu())
"""


def test_a_network_may_register_its_head_before_its_stem(tmp_path, monkeypatch):
    (tmp_path / "head_first_networks.py").write_text(HEAD_FIRST)
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("head_first_networks").HeadFirst()
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    checkpoint = fs.load(tmp_path / "m.safetensors", arch="factory:head_first_networks:HeadFirst")
    pruned = fs.prune(checkpoint, per_layer=True, sparsity=0.5)
    assert pruned["stem.weight"].shape == (6, 3, 3, 3)
    assert pruned["head.weight"].shape == (2, 4, 1, 1)
