"""Reading and writing safetensors files, against the safetensors library."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import filtersurgeon as fs
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.tensor import BITS, torch_dtypes

WITH_TORCH = sorted(torch_dtypes())


def _patterns(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Fill a tensor with arbitrary bits, NaN and denormals among them."""
    count = int(np.prod(shape)) * dtype.itemsize
    if dtype == torch.bool:
        return torch.arange(int(np.prod(shape))).reshape(shape) % 3 == 0
    raw = np.random.default_rng(0).integers(0, 256, count, dtype=np.uint8)
    return torch.from_numpy(raw).view(dtype).reshape(shape)


def _bits(tensor: torch.Tensor) -> bytes:
    return (
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if tensor.numel()
        else b""
    )


def _every_type() -> dict[str, torch.Tensor]:
    tensors = {}
    for code, dtype in torch_dtypes().items():
        tensors[f"{code}.cube"] = _patterns(dtype, 3, 5, 2)
        tensors[f"{code}.scalar"] = _patterns(dtype)
        tensors[f"{code}.empty"] = torch.empty((0, 4), dtype=dtype)
    return tensors


def test_torch_knows_all_types_but_those_smaller_than_a_byte():
    newer = {"F8_E8M0"} - set(torch_dtypes())  # torch has it from 2.7 on
    assert {*WITH_TORCH, *newer} == {code for code, bits in BITS.items() if bits >= 8}


def test_files_of_the_library_are_read_bit_for_bit(tmp_path):
    tensors = _every_type()
    save_file(tensors, tmp_path / "in.safetensors", {"format": "pt", "note": "é ∂ 猫"})
    with fs.load(tmp_path / "in.safetensors") as checkpoint:
        assert set(checkpoint) == set(tensors)
        assert checkpoint.annotations == {"note": "é ∂ 猫"}
        for name, tensor in tensors.items():
            stored = checkpoint[name]
            assert stored.dtype == name.partition(".")[0]
            assert stored.shape == tuple(tensor.shape)
            assert bytes(stored.raw()) == _bits(tensor)
            assert stored.torch().dtype == tensor.dtype
            assert _bits(stored.torch()) == _bits(tensor)


def test_written_files_are_read_by_the_library_bit_for_bit(tmp_path):
    tensors = _every_type()
    save_file(tensors, tmp_path / "in.safetensors")
    fs.save(fs.load(tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    back = load_file(tmp_path / "out.safetensors")
    assert set(back) == set(tensors)
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].shape == tensor.shape
        assert _bits(back[name]) == _bits(tensor)


def test_types_smaller_than_a_byte_pass_through(tmp_path):
    raw = bytes(range(6))
    checkpoint = Checkpoint(
        {
            "four": StoredTensor.from_bytes("F4", (3, 4), lambda: raw),
            "six": StoredTensor.from_bytes("F6_E3M2", (8,), lambda: raw),
            "last": StoredTensor.from_array(np.ones(3), "F32"),
        }
    )
    fs.save(checkpoint, tmp_path / "out.safetensors")
    with fs.load(tmp_path / "out.safetensors") as back:
        assert bytes(back["four"].raw()) == raw
        assert bytes(back["six"].raw()) == raw
    with safe_open(tmp_path / "out.safetensors", "np") as theirs:
        assert theirs.get_slice("four").get_shape() == [3, 4]


@pytest.mark.parametrize(
    "name", ["", " ", "ünïcødé.weight", "猫.0.weight", 'quo"te\\', "tab\tline\n", "\u2028", "👁"]
)
def test_any_name_round_trips(tmp_path, name):
    tensor = torch.arange(12.0).reshape(3, 4)
    save_file({name: tensor, "b": tensor + 1}, tmp_path / "in.safetensors")
    fs.save(fs.load(tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    assert torch.equal(load_file(tmp_path / "out.safetensors")[name], tensor)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(sorted(BITS)), st.lists(st.integers(0, 4), max_size=4)),
        max_size=8,
    )
)
def test_any_set_of_tensors_round_trips_in_order_and_aligned(tmp_path_factory, table):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    tensors = {}
    for k, (name, (dtype, shape)) in enumerate(table.items()):
        size = int(np.prod([*shape, BITS[dtype]]))
        if size % 8 == 0:
            data = np.random.default_rng(k).integers(0, 256, size // 8, dtype=np.uint8)
            if dtype == "BOOL":
                data &= 1
            tensors[name] = StoredTensor.from_bytes(dtype, tuple(shape), data.tobytes)
    fs.save(Checkpoint(tensors), path, force=True)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    # Large elements first, else in the given order; the bytes follow the header's order.
    assert list(header) == sorted(tensors, key=lambda name: -BITS[tensors[name].dtype])
    for entry in header.values():
        assert entry["data_offsets"][0] % max(1, BITS[entry["dtype"]] // 8) == 0
    with fs.load(path) as back:
        assert set(back) == set(tensors)
        for name, stored in tensors.items():
            assert bytes(back[name].raw()) == bytes(stored.raw())
    with safe_open(path, "pt") as theirs:
        assert set(theirs.keys()) == set(tensors)


@pytest.mark.parametrize("names", [list("abcdef"), list("fedcba"), ["10", "9", "1"]])
def test_tensors_keep_the_order_of_their_bytes(tmp_path, names):
    tensors = {name: StoredTensor.from_array(np.full(3, k), "F32") for k, name in enumerate(names)}
    fs.save(Checkpoint(tensors), tmp_path / "m.safetensors")
    with fs.load(tmp_path / "m.safetensors") as back:
        assert list(back) == names


@pytest.mark.parametrize("pad", [640, 896, 1152, 1408, 65536 + 640])
def test_a_header_whose_length_looks_like_a_pickle_is_still_safetensors(tmp_path, pad):
    # 640 is b"\x80\x02", which also begins every old PyTorch archive.
    table = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(table).encode().ljust(pad)
    content = len(text).to_bytes(8, "little") + text + np.float32([1, 2]).tobytes()
    (tmp_path / "m.safetensors").write_bytes(content)
    with fs.load(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint["a"].array().tolist() == [1.0, 2.0]


def test_blocks_hold_whole_multiples_and_all_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("filtersurgeon.checkpoint.tensor.BLOCK_BYTES", 1000)
    values = np.arange(49 * 100, dtype=np.float32)
    save_file({"a": torch.from_numpy(values)}, tmp_path / "m.safetensors")
    with fs.load(tmp_path / "m.safetensors") as checkpoint:
        blocks = [bytes(block) for block in checkpoint["a"].blocks(49 * 4)]
    assert {len(block) for block in blocks[:-1]} == {5 * 49 * 4}
    assert b"".join(blocks) == values.tobytes()


def test_torch_tensors_do_not_share_memory(tmp_path):
    save_file({"a": torch.ones(4)}, tmp_path / "m.safetensors")
    with fs.load(tmp_path / "m.safetensors") as checkpoint:
        checkpoint["a"].torch().zero_()
        assert checkpoint["a"].torch().sum() == 4


def test_new_files_have_the_mode_that_the_umask_gives(tmp_path, model):
    fs.save(fs.load(model), tmp_path / "out.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "out.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_replaced_file_keeps_its_mode(tmp_path, model):
    target = tmp_path / "out.safetensors"
    target.touch()
    target.chmod(0o640)
    fs.save(fs.load(model), target, force=True)
    assert target.stat().st_mode & 0o777 == 0o640
