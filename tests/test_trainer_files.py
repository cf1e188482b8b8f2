"""Files as trainers leave them: TorchScript, wrapped names, missing classifiers."""

import io
import json
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import filtersurgeon as fs
from filtersurgeon.checkpoint.vision import import_timm
from filtersurgeon.errors import CheckpointError, OptionError


class Net(nn.Module):
    """Has parameters, buffers, and a tensor that is neither."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
        self.register_buffer("scale", torch.full((1,), 2.0))
        self.offset = torch.ones(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu() * self.scale + self.offset)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def scripted(net):
    """The network as TorchScript writes it, traced and compiled, in bytes."""
    found = {}
    for kind, module in (
        ("script", torch.jit.script(net)),
        ("trace", torch.jit.trace(net, torch.zeros(1, 3, 8, 8))),
    ):
        file = io.BytesIO()
        torch.jit.save(module, file)
        found[kind] = file.getvalue()
    return found


def _check(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].torch().dtype == tensor.dtype
        assert torch.equal(found[name].torch(), tensor), name


@pytest.mark.parametrize("kind", ["script", "trace"])
def test_tensors_of_torchscript_are_read(scripted, net, tmp_path, kind):
    path = tmp_path / "net.pt"
    path.write_bytes(scripted[kind])
    with fs.load(path) as found:
        _check(found, net.state_dict())
        fs.save(found, tmp_path / "out.safetensors")
    with fs.load(path, allow_pickle=True) as found:
        _check(found, net.state_dict())
    _check(fs.load(tmp_path / "out.safetensors"), net.state_dict())


def test_torchscript_through_a_pipe(scripted, net, fsurgeon, tmp_path):
    (tmp_path / "net.pt").write_bytes(scripted["trace"])
    with (tmp_path / "net.pt").open("rb") as file:
        done = fsurgeon("rank", "-", "-m", "l1", "--annotate", stdin=file)
    assert done.returncode == 0, done.stderr
    (tmp_path / "out.safetensors").write_bytes(done.stdout)
    _check(fs.load(tmp_path / "out.safetensors"), net.state_dict())


def _rewrite(content: bytes, change) -> bytes:
    """Copy an archive, its entries as ``change(name, data)`` gives them."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out.getvalue()


def test_code_of_torchscript_is_never_run(scripted, net, tmp_path):
    """Neither broken code, nor a name that is no class of the archive, reaches torch."""
    path = tmp_path / "net.pt"
    code = b"  def forward(self, x):\n    return ops.nowhere.run(x)\n"
    path.write_bytes(
        _rewrite(
            scripted["script"],
            lambda name, data: data.split(b"  def forward")[0] + code if ".py" in name else data,
        )
    )
    with pytest.raises(RuntimeError):
        torch.jit.load(path)
    _check(fs.load(path), net.state_dict())
    call = b"cposix\nsystem\n(X\x09\x00\x00\x00touch xyztR0\x80\x02"
    path.write_bytes(
        _rewrite(
            scripted["script"],
            lambda name, data: (
                data[:2] + call[:-2] + data[2:] if name.endswith("/data.pkl") else data
            ),
        )
    )
    with pytest.raises(CheckpointError, match=r"posix\.system"):
        fs.load(path)


def test_torchscript_that_tells_no_names_is_refused(net, tmp_path):
    torch.jit.save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "frozen.pt")
    with pytest.raises(CheckpointError, match=r"frozen\.pt holds no parameters by name.*freeze"):
        fs.load(tmp_path / "frozen.pt")


def test_torchscript_cut_or_damaged_is_read_or_refused(scripted, tmp_path):
    path = tmp_path / "bad.pt"
    content = scripted["trace"]
    for length in range(0, len(content) - 1, 997):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            fs.load(path)
    for position in range(0, len(content), 797):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            with fs.load(path) as found:
                [found[name].raw() for name in found]
        except CheckpointError:
            continue


def test_a_module_that_holds_itself_is_refused(tmp_path):
    """Written by hand, as TorchScript writes no such thing."""
    pickled = b"\x80\x02c__torch__\nNet\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/constants.pkl", b"\x80\x02).")
        archive.writestr("m/version", b"3\n")
    with pytest.raises(CheckpointError, match="a module of it holds itself"):
        fs.load(tmp_path / "m.pt")


# Names that wrappers changed


def _sharded(state):
    """Give names as FSDP and activation checkpointing inside it leave them."""
    return {
        f"_fsdp_wrapped_module.{name}".replace(
            "head.", "head._fsdp_wrapped_module._checkpoint_wrapped_module."
        ): tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize(
    "wrap",
    [
        _sharded,
        lambda state: {"model": _sharded(state), "optim": {"state": {"w": torch.ones(3)}}},
        lambda state: {f"module.{name}": tensor for name, tensor in _sharded(state).items()},
        lambda state: {  # DeepSpeed
            "module": OrderedDict(state),
            "buffer_names": ["scale"],
            "optimizer": None,
            "param_shapes": [OrderedDict(w=torch.Size([3]))],
            "frozen_param_fragments": {"w": torch.ones(2)},
            "cpu_rng_state": torch.get_rng_state(),
            "ds_config": {"fp16": {"enabled": False}},
        },
        lambda state: {"net": state, "rng_state": torch.get_rng_state(), "epoch": torch.tensor(3)},
    ],
)
@pytest.mark.parametrize("new", [True, False])
def test_state_of_sharded_training(net, tmp_path, wrap, new):
    torch.save(wrap(net.state_dict()), tmp_path / "m.pth.tar", _use_new_zipfile_serialization=new)
    _check(fs.load(tmp_path / "m.pth.tar"), net.state_dict())


def test_parameters_that_fsdp_joined_are_refused(tmp_path):
    for name in ("_fsdp_wrapped_module._flat_param", "layers.0._flat_param_1", "flat_param"):
        torch.save({name: torch.ones(4)}, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match="FULL_STATE_DICT"):
            fs.load(tmp_path / "m.pt")


def test_words_of_wrappers_in_safetensors(net, tmp_path):
    compiled = {k.replace("conv.", "conv._orig_mod."): v for k, v in net.state_dict().items()}
    save_file(compiled, tmp_path / "m.safetensors")
    found = fs.load(tmp_path / "m.safetensors")
    _check(found, net.state_dict())
    assert "removed the prefixes of wrappers from 2 names" in found.notes[0]


def test_shards_whose_names_begin_alike(net, tmp_path):
    """The prefix of all is judged on all names, not file by file."""
    state = {f"module.{name}": tensor for name, tensor in net.state_dict().items()}
    names = list(state)
    table = {}
    for number, part in enumerate((names[:4], names[4:])):
        file = f"pytorch_model-{number}.bin"
        torch.save({name: state[name] for name in part}, tmp_path / file)
        table |= dict.fromkeys(part, file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    _check(fs.load(tmp_path), net.state_dict())
    _check(fs.load(index), net.state_dict())
    # One name without the prefix, and it belongs to the names of all.
    torch.save({"extra": torch.ones(2)}, tmp_path / "pytorch_model-2.bin")
    index.write_text(json.dumps({"weight_map": {**table, "extra": "pytorch_model-2.bin"}}))
    _check(fs.load(tmp_path), {**state, "extra": torch.ones(2)})
    # An index that names itself is no shard.
    index.write_text(json.dumps({"weight_map": {"extra": index.name}}))
    with pytest.raises(CheckpointError):
        fs.load(index)


# Names that are kept


@pytest.fixture
def wrapped(tmp_path):
    """A network of timm under the prefix of a trainer, and its file."""
    network = import_timm().create_model("test_resnet", num_classes=5)
    file = tmp_path / "wrapped.ckpt"
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, file)
    return network.eval(), file


def test_names_are_kept_on_request(wrapped, fsurgeon, tmp_path):
    network, file = wrapped
    words = ("prune", file, "--arch", "test_resnet", "--sparsity", "0.3", "--per-layer")
    for name, extra in (("plain", ()), ("kept", ("--keep-names",))):
        done = fsurgeon(*words, *extra, "-o", tmp_path / f"{name}.safetensors")
        assert done.returncode == 0, done.stderr
    plain, kept = (load_file(tmp_path / f"{x}.safetensors") for x in ("plain", "kept"))
    assert {f"model.{name}" for name in plain} == set(kept) == set(torch.load(file)["state_dict"])
    assert all(torch.equal(tensor, kept[f"model.{name}"]) for name, tensor in plain.items())
    # This package reads the network's own names again, and whatever follows keeps none unasked.
    again = fs.load(tmp_path / "kept.safetensors")
    _check(again, plain)
    fs.save(fs.replace(again, bank="dct", all_spatial=True), tmp_path / "next.safetensors")
    assert set(load_file(tmp_path / "next.safetensors")) == set(plain)
    fs.save(again, tmp_path / "twice.safetensors", keep_names=True)
    assert set(load_file(tmp_path / "twice.safetensors")) == set(kept)
    with torch.inference_mode():
        image = torch.randn(1, 3, 64, 64)
        assert fs.build(again)(image).shape == network(image).shape


def test_names_are_kept_through_a_pipe_and_by_rank(wrapped, fsurgeon, tmp_path):
    _, file = wrapped
    done = fsurgeon("rank", file, "-m", "l1", "--annotate", "--keep-names")
    assert done.returncode == 0, done.stderr
    (tmp_path / "ranked.safetensors").write_bytes(done.stdout)
    assert all(name.startswith("model.") for name in load_file(tmp_path / "ranked.safetensors"))
    cut = fsurgeon("prune", "-", "--sparsity", "0.3", "--per-layer", "--keep-names",
                   input=done.stdout)  # fmt: skip
    assert cut.returncode == 0, cut.stderr
    (tmp_path / "cut.safetensors").write_bytes(cut.stdout)
    assert set(load_file(tmp_path / "cut.safetensors")) == set(torch.load(file)["state_dict"])


def test_names_of_new_modules_follow_those_of_the_old(wrapped, tmp_path):
    """A convolution that becomes a module of fixed filters has tensors of other names."""
    _, file = wrapped
    with fs.load(file, arch="test_resnet") as checkpoint:
        made = fs.convert(checkpoint, bank="dct", module="pfm")
        fs.save(made, tmp_path / "m.safetensors", keep_names=True)
    assert set(made) - set(checkpoint)
    assert set(load_file(tmp_path / "m.safetensors")) == {f"model.{name}" for name in made}
    assert set(fs.load(tmp_path / "m.safetensors")) == set(made)


def test_words_in_the_middle_of_names_are_kept(net, tmp_path):
    torch.save(_sharded(net.state_dict()), tmp_path / "m.pt")
    fs.save(fs.load(tmp_path / "m.pt"), tmp_path / "m.safetensors", keep_names=True)
    assert set(load_file(tmp_path / "m.safetensors")) == set(_sharded(net.state_dict()))
    _check(fs.load(tmp_path / "m.safetensors"), net.state_dict())


def test_a_folder_keeps_no_names(wrapped, tmp_path):
    with pytest.raises(OptionError, match="`keep_names`"):
        fs.save(fs.load(wrapped[1]), f"{tmp_path}/out/", keep_names=True)
    assert not (tmp_path / "out").exists()


def test_keeping_names_needs_a_checkpoint_to_write(wrapped, refuse):
    assert "--annotate" in refuse("rank", wrapped[1], "-m", "l1", "--keep-names")


@pytest.mark.parametrize("names", ['["a"]', '{"zz": "a"}', '{"a": "b"}', '{"a": 3}', "{"])
def test_corrupt_tables_of_names_are_refused(tmp_path, names):
    tensors = {"a": torch.ones(2), "b": torch.ones(2)}
    save_file(tensors, tmp_path / "m.safetensors", {"names": names})
    with pytest.raises(CheckpointError, match="corrupt metadata"):
        fs.load(tmp_path / "m.safetensors")


# The entry that holds the weights


def test_a_key_is_refused_where_there_are_no_entries(refuse, tmp_path):
    save_file({"conv.weight": torch.ones(2, 2, 3, 3)}, tmp_path / "m.safetensors")
    message = refuse("inspect", tmp_path / "m.safetensors", "--key", "ema")
    assert "not a PyTorch archive, so --key finds no entry" in message
    assert "--prefix" in message
    (tmp_path / "config.json").write_text("{}")
    assert "--key" in refuse("inspect", tmp_path, "--key", "ema")
    with (tmp_path / "m.safetensors").open("rb") as file:
        assert "--key" in refuse("inspect", "-", "--key", "ema", stdin=file)
    assert "--key" in refuse("inspect", "timm:resnet18", "--key", "ema")
    for words in ({"key": "ema"}, {"prefix": "model."}):
        with pytest.raises(OptionError, match="leave them out"):
            fs.load(nn.Conv2d(3, 4, 3), **words)


# Types that are only passed on


def test_float8_and_integers_pass_through(fsurgeon, tmp_path):
    state = {
        "conv.weight": torch.randn(4, 3, 3, 3),
        "small": torch.arange(6).to(torch.float8_e4m3fn),
        "smaller": torch.arange(6).to(torch.float8_e5m2),
        "index": torch.arange(4, dtype=torch.int8),
        "count": torch.arange(4).to(torch.uint16),
        "packed.weight": torch.randint(-9, 9, (4, 3, 3, 3), dtype=torch.int8),
        "mask": torch.tensor([True, False]),
    }
    torch.save(state, tmp_path / "m.pt")
    words = ("replace", tmp_path / "m.pt", "--bank", "dct", "--all-spatial")
    output = ("-o", tmp_path / "o.safetensors")
    assert b"--layers '!packed'" in fsurgeon(*words, *output).stderr
    done = fsurgeon(*words, "--layers", "!packed", *output)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "o.safetensors")
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype
        same = torch.equal(found[name].view(torch.uint8), tensor.view(torch.uint8))
        assert same == (name != "conv.weight"), name


# Networks without their classifier


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_a_missing_classifier_is_found_without_the_architecture(name, tmp_path):
    network = import_timm().create_model(name, num_classes=0).eval()
    state = {f"net.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save(state, tmp_path / "m.pt")
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode(), fs.load(tmp_path / "m.pt") as checkpoint:
        assert torch.equal(fs.build(checkpoint)(image), network(image))
        cut = fs.prune(checkpoint, sparsity=0.3, per_layer=True)
        for number, made in enumerate((checkpoint, cut)):
            folder = f"{tmp_path}/{number}/"
            fs.save(made, folder)
            config = json.loads((tmp_path / f"{number}/config.json").read_text())
            assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 0
            expected = fs.build(made)(image)
            theirs = import_timm().create_model(f"local-dir:{folder}", pretrained=True).eval()
            assert torch.equal(theirs(image), expected)
            assert torch.equal(fs.build(fs.load(folder))(image), expected)
            assert expected.shape == (1, made_features(made))


def made_features(checkpoint) -> int:
    """Give the width of the last convolution's normalisation."""
    return [x.shape[0] for name, x in checkpoint.tensors.items() if "running_var" in name][-1]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_of_numpy_are_told_from_torch_archives(tmp_path, save):
    save(tmp_path / "weights.npz", weight=np.zeros((4, 3, 3, 3)))
    with pytest.raises(CheckpointError, match=r"arrays of NumPy, .*numpy\.save_file"):
        fs.load(tmp_path / "weights.npz")
