"""Damaged and hostile files: always one clear error, never another exception."""

import json
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import save

import filtersurgeon as fs
from filtersurgeon.checkpoint.safetensors import parse_header
from filtersurgeon.errors import CheckpointError


def _file(header: object, data: bytes = bytes(8)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}


@pytest.fixture
def refused(tmp_path):
    """Load these bytes as a file, which must be refused; give the error."""

    def load(content: bytes) -> str:
        path = tmp_path / "bad.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as caught:
            fs.load(path)
        assert "bad.safetensors" in str(caught.value)
        return str(caught.value)

    return load


GOOD = save({"a": np.ones((2, 3), np.float32), "b": np.ones(3, np.int64)}, {"k": "v"})


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_a_file_cut_anywhere_is_refused(refused, length):
    refused(GOOD[:length])


def test_bytes_after_the_last_tensor_are_refused(refused):
    assert "1 bytes follow" in refused(GOOD + b"\0")


def test_a_file_cut_short_while_it_is_open_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(GOOD)
    with fs.load(path) as checkpoint:
        path.write_bytes(GOOD[:-30])
        with pytest.raises(CheckpointError, match="truncated"):
            [checkpoint[name].raw() for name in checkpoint]


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 1000) + b"{}",
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 100_000_001) + b"{}" + b" " * 100,
        struct.pack("<Q", 0),
        b"not a checkpoint at all, only words",
        b"<html><body>404 Not Found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        b"PK\x03\x04 rubbish in a zip archive",
        b"\x80\x02 rubbish in a pickle",
        b"\x80",
        b"{}",
        _file([]),
        _file("a"),
        _file(b"{"),
        _file(b"\xff\xfe{}"),
        _file(b"{}\0"),
        _file(b'{"a": ' * 100_000),
        _file(b"[" * 100_000 + b"]" * 100_000),
        _file(b'{"a": {"dtype": "F32", "shape": [' + b"9" * 5000 + b'], "data_offsets": [0, 8]}}'),
    ],
)
def test_other_bytes_are_refused(refused, content):
    refused(content)


@pytest.mark.parametrize(
    "entry",
    [
        None,
        [],
        "F32",
        {},
        {"dtype": "F32", "shape": [2]},
        _entry(dtype="F33"),
        _entry(dtype="f32"),
        _entry(dtype=None),
        _entry(dtype=[]),
        _entry(dtype={}),
        _entry(dtype=1),
        _entry(shape=None),
        _entry(shape=2),
        _entry(shape="2"),
        _entry(shape=[2.0]),
        _entry(shape=[True, 2]),
        _entry(shape=[-2]),
        _entry(shape=[-1, -2]),
        _entry(shape=[None]),
        _entry(shape=[[2]]),
        _entry(shape=[3]),
        _entry(shape=[2**64, 2]),
        _entry(shape=[10**400]),
        _entry(shape=[0, 2**62, 2**62], data_offsets=[0, 0]),
        _entry(data_offsets=[0, 4]),
        _entry(data_offsets=[8, 0]),
        _entry(data_offsets=[0]),
        _entry(data_offsets=[0, 4, 8]),
        _entry(data_offsets=[0.0, 8.0]),
        _entry(data_offsets=["0", "8"]),
        _entry(data_offsets=[-8, 0]),
        _entry(data_offsets=[1, 9]),
        _entry(data_offsets=[2**63, 2**63 + 8]),
        _entry(dtype="F4", shape=[3], data_offsets=[0, 1]),
    ],
)
def test_impossible_entries_are_refused_and_named(refused, entry):
    assert "'conv.weight'" in refused(_file({"conv.weight": entry}))


@pytest.mark.parametrize(
    "table",
    [
        {"a": _entry(), "b": _entry()},  # both in one place
        {"a": _entry(), "b": _entry(data_offsets=[4, 12])},  # overlapping
        {"a": _entry(), "b": _entry(data_offsets=[12, 20])},  # a hole between
        {"a": _entry(data_offsets=[4, 12])},  # a hole before
    ],
)
def test_holes_and_overlaps_are_refused(refused, table):
    end = max(entry["data_offsets"][1] for entry in table.values())
    refused(_file(table, bytes(end)))


def test_a_name_that_occurs_twice_is_refused(refused):
    entry = json.dumps(_entry())
    refused(_file(f'{{"a": {entry}, "a": {entry}}}'.encode()))
    refused(_file(b'{"a": {"dtype": "F32", "dtype": "I32", "shape": [2], "data_offsets": [0, 8]}}'))


def test_half_a_surrogate_pair_is_refused(refused):
    # JSON can say it, UTF-8 and thus no other file can.
    refused(_file(b'{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'))
    refused(
        _file(b'{"__metadata__": {"k": "\\udfff"}, "a": ' + json.dumps(_entry()).encode() + b"}")
    )


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        "text",
        1,
        {"a": 1},
        {"a": None},
        {"a": {}},
        {"history": "{"},
        {"history": "1"},
        {"history": "[1]"},
        {"history": '["replace"]'},
        {"history": "[{}]"},
        {"history": '[{"verb": "replace", "options": 3}]'},
        {"history": "[" * 100_000},
        {"pretrained_cfg": "[]"},
        {"pretrained_cfg": "3"},
        {"structure": "[1]"},
        {"structure": "1"},
    ],
)
def test_corrupt_metadata_is_refused(refused, metadata):
    assert "metadata" in refused(_file({"__metadata__": metadata, "a": _entry()}))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
_entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I8", "F4", "BOOL", "X"]) | _json,
        "shape": st.lists(st.integers(-2, 9) | st.integers(), max_size=4) | _json,
        "data_offsets": st.lists(st.integers(0, 40), min_size=2, max_size=2) | _json,
    }
)


@given(st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), _entries | _json) | _json)
@example({"__metadata__": {"history": "[]"}})
def test_any_json_as_header_is_read_or_refused(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(_file(header, bytes(40)))
    try:
        checkpoint = fs.load(path)
    except CheckpointError:
        return
    with checkpoint:
        sizes = [len(checkpoint[name].raw()) for name in checkpoint]
    assert sum(sizes) == 40


@given(st.data())
def test_a_file_with_some_bytes_changed_is_read_or_refused(tmp_path_factory, data):
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(GOOD) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(content)
    try:
        checkpoint = fs.load(path)
    except CheckpointError:
        return
    with checkpoint:
        assert sum(len(checkpoint[name].raw()) for name in checkpoint) == 48


@given(st.binary(max_size=200))
def test_any_bytes_as_header_are_parsed_or_refused(text):
    try:
        header = parse_header(text, "here")
    except CheckpointError:
        return
    assert header.data_bytes == max((entry.end for entry in header.entries.values()), default=0)
