"""PyTorch archives: wrappers, both serialisations, and code that must not run."""

import argparse
import io
import os
import pickle
import struct
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

import filtersurgeon as fs
from filtersurgeon.errors import CheckpointError

STATE = {
    "conv.weight": torch.arange(54.0).reshape(2, 3, 3, 3),
    "conv.bias": torch.tensor([1.0, -1.0], dtype=torch.bfloat16),
    "steps": torch.tensor(3),
}
EMA = {name: tensor + 1 for name, tensor in STATE.items()}


class Hostile:
    """Unpickled, it writes a file through the shell."""

    def __init__(self, marker: object) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def _check(path: object, expected: dict[str, torch.Tensor] = STATE) -> fs.Checkpoint:
    checkpoint = fs.load(path)
    assert list(checkpoint) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint[name].torch(), tensor)
        assert checkpoint[name].torch().dtype == tensor.dtype
    return checkpoint


@pytest.fixture(params=[True, False], ids=["zip", "old"])
def save(request, tmp_path):
    """Save an object with torch in the new (zip) or the old serialisation."""

    def write(content: object, name: str = "m.pt") -> object:
        torch.save(content, tmp_path / name, _use_new_zipfile_serialization=request.param)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "m.bin", "m", "misnamed.safetensors"])
def test_a_state_dict_in_any_file(save, name):
    assert _check(save(STATE, name)).notes == ()


@pytest.mark.parametrize(
    "content",
    [
        OrderedDict(STATE),
        {"state_dict": STATE, "epoch": 3, "arch": "x"},
        {"model": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        {"model_state_dict": STATE},
        {"model": {"state_dict": STATE}},
        {"state_dict": EMA, "state_dict_ema": STATE},
        {"model": EMA, "model_ema": STATE},
        {"model": EMA, "ema": STATE},
        {"state_dict": EMA, "ema_state_dict": {"model": STATE}},
        {"state_dict": STATE, "ema": None},
        {f"module.{name}": tensor for name, tensor in STATE.items()},
        {f"_orig_mod.{name}": tensor for name, tensor in STATE.items()},
        {f"module._orig_mod.{name}": tensor for name, tensor in STATE.items()},
        {f"_orig_mod.module.{name}": tensor for name, tensor in STATE.items()},
        {"state_dict": {f"module.{name}": tensor for name, tensor in STATE.items()}},
        STATE | {"epoch": 3},
    ],
)
def test_usual_wrappers_are_taken_off(save, content):
    _check(save(content))


def test_a_choice_among_weights_is_told(save):
    checkpoint = _check(save({"state_dict": EMA, "state_dict_ema": STATE}))
    assert len(checkpoint.notes) == 1
    assert "state_dict_ema" in checkpoint.notes[0]


def test_a_prefix_that_only_some_names_have_stays(save):
    state = {"module.weight": torch.ones(2), "bias": torch.ones(2)}
    assert list(fs.load(save(state))) == list(state)


def test_layouts_in_memory_do_not_matter(save):
    whole = torch.arange(48.0).reshape(2, 3, 4, 2)
    state = {
        "channels_last": whole.to(memory_format=torch.channels_last),
        "transposed": whole.transpose(0, 3),
        "part": whole[:, 1],
        "parameter": nn.Parameter(whole),
        "conjugate": torch.complex(whole, whole).conj(),
        "negative": torch.complex(whole, whole).conj().imag,
    }
    checkpoint = fs.load(save(state))
    for name, tensor in state.items():
        assert torch.equal(checkpoint[name].torch(), tensor), name


def test_a_saved_file_equals_what_the_library_would_load(save, tmp_path):
    fs.save(fs.load(save(STATE)), tmp_path / "out.safetensors")
    _check(
        tmp_path / "out.safetensors", {k: STATE[k] for k in ("steps", "conv.weight", "conv.bias")}
    )


@pytest.mark.parametrize("content", [torch.ones(3), [STATE], {}, {"epoch": 3}, {"model": {}}, 7])
def test_archives_without_named_tensors_are_refused(save, content):
    with pytest.raises(CheckpointError, match="state"):
        fs.load(save(content))


@pytest.mark.parametrize(
    "entry",
    [
        {"fc._packed_params": (torch.ones(2, 2), None)},
        {"encoder": {"w": torch.ones(2)}},
        {"fc.weight": np.ones(3, np.float32)},
        {"conv._extra_state": io.BytesIO(b"8-bit scales")},
        {"fc.parts": [{"deep": [torch.ones(1)]}]},
        {("a", "tuple"): torch.ones(2)},
        {0: torch.ones(2), "0": torch.zeros(2)},
    ],
)
def test_weights_in_other_things_than_tensors_are_not_left_out(save, entry):
    path = save({**STATE, **entry})
    with pytest.raises(CheckpointError, match=r"lost|no name of its own"):
        fs.load(path, allow_pickle=True)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_network_is_refused(save):
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(2, 2))
    state = torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear}).state_dict()
    path = save(state)
    with pytest.raises(CheckpointError, match=r"'2\._packed_params\._packed_params'.*lost"):
        fs.load(path)


def test_what_holds_no_weights_is_left_out_with_a_note(save):
    own = {"epoch": 3, "classes": ["a", "b"], "best": None, "fc.dtype": torch.qint8, "lr": 0.1,
           "optimizer": {"state": {0: {"momentum": torch.ones(2)}}},
           "history": [{"loss": 1.0}]}  # fmt: skip
    own["itself"] = [own["classes"]]
    own["itself"].append(own["itself"])
    found = fs.load(save({**STATE, **own}))
    assert set(found) == set(STATE)
    assert "left out 8 entries" in found.notes[0]


def test_a_dictionary_that_holds_itself_is_refused(save):
    content: dict[str, object] = {"epoch": 3}
    content["model"] = content
    with pytest.raises(CheckpointError):
        fs.load(save(content))


def test_tensors_without_data_are_refused(save):
    with pytest.raises(CheckpointError, match="'w'"):
        fs.load(save({"w": torch.empty(2, 2, device="meta")}))


@pytest.mark.parametrize(
    "tensor", [torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex128)]
)
def test_tensors_that_safetensors_cannot_hold_are_refused_and_named(save, tensor):
    with pytest.raises(CheckpointError, match="'odd'"):
        fs.load(save({"fine": torch.ones(2), "odd": tensor}))


def test_a_pickled_module_is_refused_unless_allowed(save):
    path = save(nn.Conv2d(2, 3, 3))
    with pytest.raises(CheckpointError, match=r"torch\.nn.*state_dict.*`allow_pickle`"):
        fs.load(path)
    assert list(fs.load(path, allow_pickle=True)) == ["weight", "bias"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_hostile_code_does_not_run(save, tmp_path, wrapped):
    marker = tmp_path / "marker"
    hostile = Hostile(marker)
    path = save({"state_dict": STATE, "x": hostile} if wrapped else hostile)
    with pytest.raises(CheckpointError, match="`allow_pickle`"):
        fs.load(path)
    assert not marker.exists()
    # It is armed: whoever allows it gets it.
    try:
        fs.load(path, allow_pickle=True)
    except CheckpointError:
        assert not wrapped
    assert marker.exists()


def test_hostile_code_in_a_plain_pickle_does_not_run(tmp_path):
    path, marker = tmp_path / "m.pt", tmp_path / "marker"
    for protocol in (2, 3, 4, 5):
        path.write_bytes(pickle.dumps({"w": Hostile(marker)}, protocol))
        with pytest.raises(CheckpointError):
            fs.load(path)
        assert not marker.exists()


def test_hostile_code_does_not_run_in_a_folder_or_a_shard(save, tmp_path):
    marker, folder = tmp_path / "marker", tmp_path / "net"
    folder.mkdir()
    save({"w": Hostile(marker)}, "net/pytorch_model.bin")
    with pytest.raises(CheckpointError, match="`allow_pickle`"):
        fs.load(folder)
    (folder / "model.safetensors.index.json").write_text(
        '{"weight_map": {"w": "pytorch_model.bin"}}'
    )
    with pytest.raises(CheckpointError, match="`allow_pickle`"):
        fs.load(folder)
    assert not marker.exists()


def test_a_bank_file_runs_no_code(save, tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(CheckpointError):
        fs.load_bank(save({"kernels": Hostile(marker)}))
    assert not marker.exists()


def test_archives_cut_anywhere_are_refused(save, tmp_path):
    content = save({"w": torch.arange(3.0)}).read_bytes()
    path = tmp_path / "cut.pt"
    for length in range(0, len(content) - 1, 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            fs.load(path)


def test_archives_with_a_damaged_byte_are_read_or_refused(save, tmp_path):
    content = save({"w": torch.arange(3.0), "b": torch.ones(2, dtype=torch.int8)}).read_bytes()
    path = tmp_path / "bad.pt"
    for position in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            with fs.load(path) as checkpoint:
                [checkpoint[name].raw() for name in checkpoint]
        except CheckpointError:
            continue


def test_an_archive_in_a_zip_of_something_else_is_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(CheckpointError, match=r"m\.pt"):
        fs.load(tmp_path / "m.pt")


def test_a_truncated_length_in_a_pickle_is_refused(tmp_path):
    # BINUNICODE announces four bytes of length and the file ends.
    (tmp_path / "m.pt").write_bytes(b"\x80\x02X" + struct.pack("<H", 9))
    with pytest.raises(CheckpointError):
        fs.load(tmp_path / "m.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"net": STATE, "acc": 93.0, "epoch": 1},
        {"params": EMA, "params_ema": STATE},
        {"weights of mine": STATE, "optimizer": {"state": {0: torch.ones(2)}}},
        {f"a._orig_mod.{name}": tensor for name, tensor in STATE.items()},
        {"n_averaged": torch.tensor(3)} | {f"module.{k}": v for k, v in STATE.items()},
        STATE | {"total_ops": torch.zeros(1), "conv.total_params": torch.zeros(1)},
        {"state_dict": STATE, "args": argparse.Namespace(lr=0.1), "best": np.float64(3)},
    ],
)
def test_what_trainers_add_is_taken_off(save, content):
    found = fs.load(save(content))
    prefix = "a." if any(name.startswith("a.") for name in content) else ""
    assert list(found) == [prefix + name for name in STATE]
    for name, tensor in STATE.items():
        assert torch.equal(found[prefix + name].torch(), tensor)


def test_one_of_several_networks_is_chosen_by_its_key(save):
    path = save({"teacher": EMA, "student": {"inner": STATE}, "epoch": 3})
    with pytest.raises(CheckpointError, match=r"several networks \(teacher, student\).*`key`"):
        fs.load(path)
    for key, expected in (("teacher", EMA), ("student", STATE), ("student.inner", STATE)):
        found = fs.load(path, key=key)
        assert torch.equal(found["conv.weight"].torch(), expected["conv.weight"])
    with pytest.raises(CheckpointError, match=r"no weights under 'x'.*teacher, student"):
        fs.load(path, key="x")


def test_names_that_exist_twice_after_unwrapping_are_refused(save):
    with pytest.raises(CheckpointError, match=r"'a\.w' exists twice"):
        fs.load(save({"a.w": torch.ones(2), "a._orig_mod.w": torch.ones(2)}))


def test_options_of_a_script_run_no_code(save):
    """A class that is read past is never imported, let alone called."""
    found = fs.load(save({"state_dict": STATE, "args": argparse.Namespace(a=np.int64(1))}))
    assert "state_dict" in found.notes[0]
