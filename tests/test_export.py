"""Networks in other formats: the same outputs, the same bytes, nothing of the machine in them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError, CheckpointError, FilterSurgeonError, OptionError
from filtersurgeon.exports import torch_format
from filtersurgeon.networks import onnx_format

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

NETWORK = """
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )

class Stubborn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        return y if bool((y.sum() > 0).tolist()) else -y

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        return {"a": y.mean((2, 3)), "b": [y][0]}
"""
SIZE = (3, 8, 8)
FORMATS = ["onnx", "pt2"]


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A pruned network of the user's: seven filters instead of eight."""
    (tmp_path / "export_me.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "export_me", raising=False)
    rng = np.random.default_rng(0)
    shapes = {"0.weight": (7, 3, 3, 3), "0.bias": (7,), "5.weight": (4, 7), "5.bias": (4,)}
    shapes |= {f"1.{part}": (7,) for part in ("weight", "bias", "running_mean", "running_var")}
    tensors = {
        name: fs.StoredTensor.from_array(
            np.abs(rng.standard_normal(shape)).astype(np.float32), "F32"
        )
        for name, shape in shapes.items()
    }
    return fs.Checkpoint(tensors, "net", architecture="factory:export_me:small")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("dynamic", [False, True])
def test_an_exported_network_computes_the_same(network, tmp_path, ending, dynamic):
    path = tmp_path / f"m.{ending}"
    made = fs.export(network, path, dynamic_batch=dynamic, input_size=SIZE)
    assert made.input_shape == (None if dynamic else 1, *SIZE)
    assert made.difference.n_inputs == 4
    assert made.difference.relative_max < 1e-5
    assert made.file_bytes == path.stat().st_size
    # By hand, on other images and other counts.
    images = torch.randn(3 if dynamic else 1, *SIZE, generator=torch.Generator().manual_seed(9))
    writer = onnx_format if ending == "onnx" else torch_format
    (given,) = writer.run(path.read_bytes(), [[images]])
    (given,) = torch.utils._pytree.tree_leaves(given)
    with torch.no_grad():
        wanted = fs.build(network)(images)
    assert torch.allclose(given, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ending", FORMATS)
def test_the_same_bytes_without_a_word_about_the_machine(network, tmp_path, ending, fsurgeon):
    fs.save(network, tmp_path / "m.safetensors")
    fs.export(network, tmp_path / f"a.{ending}", input_size=SIZE)
    words = ["--factory", "export_me:small", "--input-size", "3,8,8", "-o", f"b.{ending}"]
    done = fsurgeon("export", "m.safetensors", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    content = json.loads(done.stdout)
    assert content["schema"] == "filtersurgeon.export/1"
    written = (tmp_path / f"a.{ending}").read_bytes()
    assert (tmp_path / f"b.{ending}").read_bytes() == written
    assert content["bytes"] == len(written)
    for word in (str(tmp_path), sys.prefix, str(Path.home()), "site-packages", "export_me.py"):
        assert word.encode() not in written


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.usefixtures("network")
def test_a_network_with_several_outputs(tmp_path, ending):
    rng = np.random.default_rng(0)
    arrays = {"conv.weight": rng.standard_normal((4, 3, 1, 1)), "conv.bias": np.zeros(4)}
    tensors = {k: fs.StoredTensor.from_array(v.astype("f4"), "F32") for k, v in arrays.items()}
    checkpoint = fs.Checkpoint(tensors, "net", architecture="factory:export_me:Two")
    made = fs.export(checkpoint, tmp_path / f"m.{ending}", input_size=SIZE, random=2)
    assert made.difference.n_inputs == 2
    assert made.difference.relative_max < 1e-5


def test_a_difference_is_seen(network, tmp_path, monkeypatch):
    run = torch_format.run
    monkeypatch.setattr(torch_format, "run", lambda *words: [out * 1.5 for out in run(*words)])
    path = tmp_path / "m.pt2"
    made = fs.export(network, path, input_size=SIZE, max_diff=0.1)
    assert made.difference.relative_max == pytest.approx(0.5)
    assert not path.exists()
    fs.export(network, path, input_size=SIZE, max_diff=0.6)
    assert path.exists()


def test_a_check_that_does_not_hold_is_code_1(network, tmp_path, fsurgeon):
    fs.save(network, tmp_path / "m.safetensors")
    words = ["--factory", "export_me:small", "--input-size", "3,8,8", "-o", "m.onnx"]
    done = fsurgeon("export", "m.safetensors", *words, "--max-diff", "1e-12", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert b"m.onnx is not written" in done.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_opset(network, tmp_path):
    import onnx

    fs.export(network, tmp_path / "m.onnx", input_size=SIZE, opset=18)
    assert onnx.load(tmp_path / "m.onnx").opset_import[0].version == 18


def test_a_network_may_have_any_size_of_input(network, tmp_path):
    assert fs.export(network, tmp_path / "m.pt2", random=1).input_shape == (1, 3, 224, 224)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"target": "m.pb"}, OptionError, "end in .onnx or .pt2"),
        ({"format": "onx"}, OptionError, "did you mean onnx"),
        ({"format": "torch-export"}, OptionError, "not `format` torch-export"),
        ({"target": "m.pt2", "opset": 18}, OptionError, "applies to ONNX only"),
        ({"opset": 3}, OptionError, "operator set 18 for this network, not 3"),
        ({"target": "there.onnx"}, CheckpointError, "`force`"),
        ({"target": "no/m.onnx"}, CheckpointError, "no such directory"),
        ({"input_size": (1, 8, 8)}, ArchitectureError, "does not take images of"),
        ({"input_size": (3, 2, 2)}, ArchitectureError, "check `input_size`"),
    ],
)
def test_what_cannot_be_exported_is_refused(network, tmp_path, options, error, words):
    (tmp_path / "there.onnx").write_bytes(b"")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=words) as caught:
        fs.export(network, **{"target": "m.onnx", "input_size": SIZE, **options})
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.usefixtures("network")
def test_a_network_that_decides_by_its_data_is_refused(tmp_path, ending):
    arrays = {"conv.weight": np.ones((4, 3, 1, 1)), "conv.bias": np.zeros(4)}
    tensors = {k: fs.StoredTensor.from_array(v.astype("f4"), "F32") for k, v in arrays.items()}
    checkpoint = fs.Checkpoint(tensors, "net", architecture="factory:export_me:Stubborn")
    with pytest.raises(FilterSurgeonError) as caught:
        fs.export(checkpoint, tmp_path / f"m.{ending}", input_size=SIZE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(network, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(OptionError, match=r"pip install 'filtersurgeon\[export\]'"):
        fs.export(network, tmp_path / "m.onnx", input_size=SIZE)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("size", ["3,", "age=", "a,b,c", "3,0,8", "3,-8,8", "3,8.5,8"])
def test_sizes_are_checked(refuse, model, size):
    assert "C,H,W" in refuse("export", model, "-o", "m.onnx", "--input-size", size)


def test_an_output_must_be_named(refuse, model):
    assert "-o FILE.onnx" in refuse("export", model)
