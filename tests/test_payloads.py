"""Files that would run code if they were opened carelessly, given to the command itself."""

import io
import os
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import filtersurgeon as fs
from filtersurgeon.checkpoint.pickle_machine import HARMLESS, Machine, UnsafeName
from filtersurgeon.data.sources import read_npz
from filtersurgeon.errors import CheckpointError, TrainingError
from filtersurgeon.learn.state import load_state

TENSORS = {"conv.weight": torch.ones(2, 3, 3, 3)}


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Payload:
    """Unpickled, it writes a file through the shell."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


class Second:
    """The same, by what an object is given when it is rebuilt."""

    def __reduce__(self):
        return eval, ("__import__('os').system('touch pwned')",)


def find_unsafe_name(pickled):
    """Name the first thing in a pickle that is not needed for tensors."""
    with pytest.raises(UnsafeName) as found:
        Machine(io.BytesIO(pickled)).run()
    return str(found.value)


def _zip(path, content):
    torch.save(content, path)


def _old(path, content):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _plain(path, content):
    path.write_bytes(pickle.dumps(content, 2))


def _plain_5(path, content):
    path.write_bytes(pickle.dumps(content, 5))


def _tar(path, content):
    with tarfile.open(path, "w:") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = pickle.dumps(content, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def _two_pickles_in_one(path, content):
    """A zip file whose directory names a harmless pickle first and another one last."""
    torch.save(TENSORS, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", pickle.dumps(content, 2))


KINDS = {"zip": _zip, "old": _old, "pickle": _plain, "pickle5": _plain_5, "tar": _tar,
         "two": _two_pickles_in_one}  # fmt: skip


@pytest.mark.parametrize("payload", [Payload, Second])
@pytest.mark.parametrize("kind", KINDS)
def test_no_payload_runs_from_any_archive(kind, payload):
    for nested in (payload(), {"state_dict": TENSORS, "args": [OrderedDict(x=(payload(),))]}):
        KINDS[kind](Path("m.pt"), nested)
        with pytest.raises(CheckpointError):
            fs.load("m.pt")
        assert not Path("pwned").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_the_command_refuses_it(kind, refuse):
    KINDS[kind](Path("m.pt"), {"model": TENSORS, "x": Payload()})
    message = refuse("inspect", "m.pt")
    if kind in ("zip", "old"):
        assert "posix.system" in message
        assert "--allow-pickle" in message
        Path("m.pt").rename("m.safetensors")
        assert "posix.system" in refuse("replace", "m.safetensors", "-o", "out.safetensors")
        with open("m.safetensors", "rb") as piped:
            assert "posix.system" in refuse("rank", "-", "-m", "l1", stdin=piped)
    assert not Path("pwned").exists()


def test_it_runs_only_where_that_was_asked_for(fsurgeon):
    _zip("m.pt", {"state_dict": TENSORS, "x": Payload()})
    assert fsurgeon("inspect", "m.pt", "--allow-pickle").returncode == 0
    assert Path("pwned").exists()


def test_a_folder_a_shard_and_a_bank(refuse):
    Path("net").mkdir()
    _zip("net/pytorch_model.bin", {"w": Payload()})
    refuse("inspect", "net")
    Path("net/model.safetensors.index.json").write_text(
        '{"weight_map": {"w": "pytorch_model.bin"}}'
    )
    refuse("inspect", "net")
    save_file({"a.weight": np.ones((4, 1, 3, 3), "f4"), "b.weight": np.ones((4, 4), "f4")}, "m")
    refuse("replace", "m", "--bank", "net/pytorch_model.bin", "-o", "out.safetensors")
    objects = np.array([[[Payload()]]], dtype=object)
    np.savez("bank.npz", kernels=objects)
    assert "Python objects" in refuse("replace", "m", "--bank", "bank.npz", "-o", "o.safetensors")
    assert not Path("pwned").exists()


def test_images_in_an_archive_of_objects(fsurgeon):
    objects = np.array([Payload()], dtype=object)
    np.savez("data.npz", x=objects, y=objects)
    done = fsurgeon("eval", "--arch", "lcnet_035", "--data", "data.npz", "timm:lcnet_035")
    assert done.returncode == 2
    with pytest.raises(fs.FilterSurgeonError, match="Python objects"):
        read_npz(Path("data.npz"), "test")
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    "text",
    [
        "steps: [!!python/object/apply:os.system ['touch pwned']]",
        "steps: [replace: {bank: !!python/object/apply:os.system ['touch pwned']}]",
        "!!python/object/new:os.system ['touch pwned']",
        "steps: !!python/object/apply:subprocess.Popen [[touch, pwned]]",
        "steps: !!python/name:os.system",
        "steps: !!python/module:os",
    ],
)
def test_recipes_make_no_objects(text, refuse, model):
    Path("r.yaml").write_text(text)
    assert "r.yaml" in refuse("apply", "r.yaml", model, "-o", "out.safetensors")
    assert not Path("pwned").exists()


def test_a_recipe_that_laughs_a_billion_times_is_refused(refuse, model):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10)]
    Path("r.yaml").write_text("\n".join([*lines, "steps: [replace: {layers: *a9}]"]))
    assert "values" in refuse("apply", "r.yaml", model, "-o", "out.safetensors")


def test_a_recipe_may_name_a_list_twice(fsurgeon, model):
    Path("r.yaml").write_text(
        "x: &x [blocks.2]\nsteps: [replace: {layers: *x}, replace: {layers: *x}]"
    )
    assert fsurgeon("apply", "r.yaml", model, "-o", "out.safetensors").returncode == 0


def test_the_state_of_a_training_run_runs_no_code(tmp_path):
    for write in (_zip, _old, _plain):
        write(tmp_path / "state.pt", {"signature": {}, "x": Payload()})
        with pytest.raises(TrainingError, match="not the state"):
            load_state(tmp_path, {})
    for content in ([1], {"epoch": 1}, {"signature": 3}):
        _zip(tmp_path / "state.pt", content)
        with pytest.raises(TrainingError, match="not the state"):
            load_state(tmp_path, {})
    assert not Path("pwned").exists()


def test_the_gate_lets_through_what_state_dicts_need_and_nothing_else():
    for name in ("torch._utils._rebuild_tensor_v2", "torch.BFloat16Storage", "torch.float8_e4m3fn",
                 "collections.OrderedDict", "torch.storage.UntypedStorage"):  # fmt: skip
        assert HARMLESS.fullmatch(name)
    for name in ("os.system", "posix.system", "builtins.eval", "torch.load", "torch.hub.load",
                 "torch.jit.load", "torch.storage._load_from_bytes", "numpy.load", "torch.ops.x",
                 "torch.classes.x", "collections.namedtuple", "builtins.getattr",
                 "torch.serialization.load", "torch._utils.import_module"):  # fmt: skip
        assert not HARMLESS.fullmatch(name), name
    # Names may be put together from words on the stack, or hidden behind a number.
    assert find_unsafe_name(pickle.dumps(Second(), 4)) == "builtins.eval"
    assert "EXT1" in str(find_unsafe_name(b"\x80\x02\x82\x01."))
    assert "INST" in str(find_unsafe_name(b"(ios\nsystem\n."))


def test_a_compressed_archive_is_refused_rather_than_misread():
    torch.save(TENSORS, "m.pt")
    with (
        zipfile.ZipFile("m.pt") as stored,
        zipfile.ZipFile("c.pt", "w", zipfile.ZIP_DEFLATED) as out,
    ):
        for entry in stored.namelist():
            out.writestr(entry, stored.read(entry))
    with pytest.raises(CheckpointError, match="compress"):
        fs.load("c.pt")
    with zipfile.ZipFile("m.pt") as stored, zipfile.ZipFile("s.pt", "w") as out:
        for entry in stored.namelist():
            out.writestr(entry, stored.read(entry))
    assert torch.equal(fs.load("s.pt")["conv.weight"].torch(), TENSORS["conv.weight"])


def test_a_tensor_that_repeats_four_bytes_a_trillion_times_is_refused():
    torch.save({"w": torch.ones(1).expand(1 << 40)}, "m.pt")
    with pytest.raises(CheckpointError, match="'w' repeats 4 bytes"):
        fs.load("m.pt")
    torch.save({"w": torch.arange(3.0).reshape(3, 1).expand(3, 5)}, "m.pt")
    expected = torch.arange(3.0).reshape(3, 1).expand(3, 5)
    assert torch.equal(fs.load("m.pt")["w"].torch(), expected)


@pytest.mark.parametrize("file", ["bank.npz", "data.npz"])
def test_arrays_that_would_fill_the_memory_are_refused(file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("kernels.npy", "x.npy", "y.npy"):
            with archive.open(name, "w", force_zip64=True) as member:
                header = {"descr": "|u1", "fortran_order": False, "shape": (1 << 28, 1, 1)}
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(256):
                    member.write(bytes(1 << 20))
    read = fs.load_bank if file == "bank.npz" else partial(read_npz, split="test")
    with pytest.raises(fs.FilterSurgeonError, match="would grow"):
        read(Path(file))
