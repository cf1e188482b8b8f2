"""Files from strangers, given to the command under hard limits: refused in one line, at no cost.

Every case is a file (or a folder) and the words of a command. The command may take six gigabytes of
address space and twenty seconds of the processor, must end with code 2 and one line, write nothing
and start no other program.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, snapshot
from safetensors.numpy import save_file

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError, CheckpointError, ImageError


@pytest.fixture(scope="module")
def limited() -> Iterator[Callable[..., dict[str, Any]]]:
    """Run ``fsurgeon WORDS`` in a folder under limits; see ``tests/limited.py``."""
    words = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "limited.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "ready\n"

        def run(folder: Path, *given: str) -> dict[str, Any]:
            process.stdin.write(json.dumps({"words": given, "folder": str(folder)}) + "\n")
            process.stdin.flush()
            found: dict[str, Any] = json.loads(process.stdout.readline())
            return found

        yield run
        process.stdin.close()


@pytest.fixture
def refused(limited, tmp_path):
    """Run a command that must refuse; gives its line."""

    def run(*words: str) -> str:
        before = snapshot(tmp_path)
        done = limited(tmp_path, *words)
        assert done["code"] == 2, done
        assert done["err"].startswith("error: "), done
        assert done["err"].count("\n") == 1, done
        assert not done["out"]
        assert not done["started"]
        assert snapshot(tmp_path) == before
        return done["err"]

    return run


# Archives.

STATE = {"conv.weight": torch.ones(2, 3, 3, 3)}


def _archive(pickled: bytes, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickled)
        archive.writestr("m/byteorder", b"little")
        archive.writestr("m/data/0", bytes(72))
        archive.writestr("m/version", b"3\n")


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _put(number: int) -> bytes:
    return b"r" + struct.pack("<I", number)


def _get(number: int) -> bytes:
    return b"j" + struct.pack("<I", number)


def _doubled(times: int) -> bytes:
    """A tuple of two of a tuple of two, and so on, each there once in memory."""
    return b")" + _put(0) + (_get(0) + _get(0) + b"\x86" + _put(0)) * times


_SET = b"cbuiltins\nset\n"
_PERSISTENT = _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K\x12"
_STORAGE = b"(" + _PERSISTENT + b"tQ"
_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + _STORAGE + b"K\x00K\x12\x85K\x01\x85\x89N"
_WIDE = 2000

PICKLES = {
    "a key of nested tuples": b"\x80\x02}" + _doubled(60) + b"Ns.",
    "a set of nested tuples": b"\x80\x02" + _SET + b"](" + _doubled(60) + b"e\x85R.",
    "a memory of a name": b"\x80\x02" + _SET + b"(" + _doubled(60) + b"t\x85R.",
    "a name in nested tuples": b"\x80\x02" + _doubled(40) + b"Q.",
    "an odd storage": b"\x80\x02(" + _doubled(60) + _text("x") + b"tQ.",
    "an array of bytes by a number": b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.",
    "numbers of a shape": b"\x80\x02cbuiltins\nset\nJ\xff\xff\xff\x7f\x85R.",
    "a name from the memo": b"\x80\x04" + _text("os") + _put(1) + _text("system") + _put(2)
    + b"00" + _text("collections") + _text("OrderedDict") + b"00" + _get(1) + _get(2)
    + b"\x93" + _text("touch pwned") + b"\x85R.",
    "a name made of bytes": b"\x80\x04C\x02osC\x06system\x93" + _text("touch pwned") + b"\x85R.",
    "a call of what was made": b"\x80\x02" + _text("x") + b")R.",
    "numbers that meet": b"\x80\x02}("
    + b"".join(
        b"\x8a\x0a" + (k * ((1 << 61) - 1)).to_bytes(10, "little", signed=True) + b"N"
        for k in range(1, 60_000)
    )
    + b"u.",
    "a text that is encoded again": b"\x80\x02" + _text("x" * 400_000) + _put(0)
    + b"0](" + (b"c_codecs\nencode\n" + _get(0) + _text("latin1") + b"\x86R") * 20_000 + b"e.",
    "a list that is copied again": b"\x80\x02]" + _put(0) + b"(" + b"K\x01" * 100_000 + b"e0]("
    + (_SET + _get(0) + b"\x85R") * 20_000 + b"e.",
    "a dictionary that is copied again": b"\x80\x02](" + b"(K\x01K\x02t" * 50_000 + b"e" + _put(0)
    + b"0](" + (b"ccollections\nOrderedDict\n" + _get(0) + b"\x85R") * 20_000 + b"e.",
    "a shape of many axes": b"\x80\x02(" + b"K\x01" * 100_000 + b"t" + _put(0) + b"0](" + (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + _STORAGE + b"K\x00" + _get(0) + _get(0)
        + b"\x89NtR") * 5_000 + b"e.",
    "a tensor outside of its data": b"\x80\x02}" + _text("w")
    + _TENSOR.replace(b"K\x00K\x12", b"K\x01K\x12") + b"tRs.",
    "a tensor of a negative shape": b"\x80\x02}" + _text("w")
    + _TENSOR.replace(b"K\x12\x85K\x01", b"J\xff\xff\xff\xff\x85K\x01") + b"tRs.",
    "lists in lists": b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b".",
    "tuples in tuples": b"\x80\x02}N" + b"\x85" * 400_000 + b"Ns.",
    "dictionaries of one dictionary": b"\x80\x02" + b"}" + _put(0) + b"".join(
        b"}(" + b"".join(_text(f"k{k}") + _get(level) for k in range(_WIDE)) + b"u"
        + _put(level + 1)
        for level in range(5)
    ) + b".",
    "entries of one list": b"\x80\x02](" + b"K\x01" * 50_000 + b"e" + _put(0) + b"}("
    + b"".join(_text(f"k{k}") + _get(0) for k in range(20_000)) + _text("w") + _TENSOR + b"tRu.",
    "a length without bytes": b"\x80\x02X\xff\xff\xff\xff",
    "a long length without bytes": b"\x80\x04\x8e" + struct.pack("<q", 1 << 40),
    "a number of many digits": b"\x80\x02\x8b" + struct.pack("<i", 1_000_000) + b"\x01" * 1_000_000
    + b".",
    "many containers": b"\x80\x02" + b"]" * 6_000_000 + b".",
    "marks": b"\x80\x02" + b"(" * 2_000_000 + b"t" * 2_000_000 + b".",
    "a call with many arguments": b"\x80\x02(" + b"N" * 100_000 + b"t" + _put(0) + b"0](" + (
        b"ccollections\nOrderedDict\n" + _get(0) + b"R") * 20_000 + b"e.",
    "nothing": b"\x80\x02.",
}  # fmt: skip


_LONG = ("marks", "many containers", "lists in lists", "tuples in tuples")


@pytest.mark.parametrize(
    "case", [pytest.param(x, marks=[pytest.mark.slow] * (x in _LONG)) for x in PICKLES]
)
def test_a_pickle_costs_nothing(case, refused, tmp_path):
    _archive(PICKLES[case], tmp_path / "m.pt")
    assert "m.pt" in refused("inspect", "m.pt")


WRONG = {
    "a tensor of one argument": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + _STORAGE
    + b"\x85R.",
    "a typed tensor of four arguments": b"\x80\x02ctorch._utils\n_rebuild_tensor_v3\n("
    + _STORAGE + b"K\x00))tR.",
    "entries of three": b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02K\x03te\x85R.",
    "two dictionaries": b"\x80\x02ccollections\nOrderedDict\n}}\x86R.",
    "sets of two": b"\x80\x02" + _SET + b"))\x86R.",
    "a long name": b"\x80\x02c" + b"o" * 5000 + b"\nx\n.",
    "a long name from the stack": b"\x80\x04" + _text("o" * 5000) + _text("x") + b"\x93.",
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_pickle_is_described_in_one_line(case, tmp_path):
    _archive(WRONG[case], tmp_path / "m.pt")
    with pytest.raises(CheckpointError) as caught:
        fs.load(tmp_path / "m.pt")
    message = str(caught.value)
    assert len(message.replace(str(tmp_path), "")) < 200
    assert "unpack" not in message
    assert ("pickled oooo" if "long" in case else "a pickle") in message


_OLD = (
    "a key of nested tuples",
    "an array of bytes by a number",
    "a name from the memo",
    "dictionaries of one dictionary",
)


@pytest.mark.parametrize("case", _OLD)
def test_an_old_archive_costs_nothing(case, refused, tmp_path):
    row = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {})]
    old = b"".join(row) + PICKLES[case] + pickle.dumps([], 2)
    (tmp_path / "m.pt").write_bytes(old)
    assert "m.pt" in refused("rank", "m.pt", "-m", "l1")
    (tmp_path / "m.pt").write_bytes(PICKLES[case])
    assert "m.pt" in refused("rank", "m.pt", "-m", "l1")


def test_modules_of_shared_modules_cost_nothing(refused, tmp_path):
    part = b"c__torch__\nNet\n)\x81}X\x01\x00\x00\x00a"
    shared = part + b"Nsb" + _put(0)
    for _ in range(40):
        shared += b"0" + part + _get(0) + b"sX\x01\x00\x00\x00b" + _get(0) + b"sb" + _put(0)
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02" + shared + b".")
        archive.writestr("m/constants.pkl", b"\x80\x02).")
    assert "m.pt" in refused("inspect", "m.pt")


def test_a_tar_archive_is_refused_even_where_code_may_run(refused, tmp_path):
    with tarfile.open(tmp_path / "m.pt", "w:", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("\x80\x02x", "storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name), BytesIO(b""))
    raw = bytearray((tmp_path / "m.pt").read_bytes())
    raw[:3] = b"\x80\x02x"
    (tmp_path / "m.pt").write_bytes(raw)
    assert "tar archive" in refused("inspect", "m.pt")
    assert "tar archive" in refused("inspect", "m.pt", "--allow-pickle")


def _damage(path: Path, member: str) -> None:
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith(member))
    raw = bytearray(path.read_bytes())
    begin = entry.header_offset + 30 + sum(struct.unpack_from("<HH", raw, entry.header_offset + 26))
    raw[begin + entry.file_size // 2] ^= 1
    path.write_bytes(raw)


def test_data_that_do_not_match_their_checksum_are_refused(refused, tmp_path):
    torch.save(STATE, tmp_path / "m.pt")
    _damage(tmp_path / "m.pt", "/data/0")
    for words in (
        ("rank", "m.pt", "-m", "l1"),
        ("replace", "m.pt", "--all-spatial", "-o", "o.safetensors"),
    ):
        assert "checksum" in refused(*words)
    torch.save(STATE, tmp_path / "m.pt")
    _damage(tmp_path / "m.pt", "data.pkl")
    assert "checksum" in refused("inspect", "m.pt")


def test_archives_without_checksums_are_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "m.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    with fs.load(tmp_path / "m.pt") as found:
        assert torch.equal(found["conv.weight"].torch(), STATE["conv.weight"])


@pytest.mark.parametrize("new", [True, False])
def test_an_archive_that_is_cut_while_it_is_read_is_refused(tmp_path, new):
    path = tmp_path / "m.pt"
    for allowed in (False, True):
        torch.save({"w": torch.ones(1 << 20)}, path, _use_new_zipfile_serialization=new)
        with fs.load(path, allow_pickle=allowed) as found:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
            with pytest.raises(CheckpointError, match="truncated"):
                found["w"].raw()


def test_reading_an_archive_gives_what_torch_gives(tmp_path):
    whole = torch.arange(48.0).reshape(2, 3, 4, 2)
    state = {
        "part": whole[1:, ::2],
        "transposed": whole.transpose(0, 3),
        "half": whole.half()[:, 1],
        "bits": whole.bfloat16().flip(0),
        "eight": whole.to(torch.float8_e4m3fn),
        "sixteen": torch.tensor([1, 65535], dtype=torch.uint16),
        "logical": torch.tensor([True, False]),
        "complex": torch.complex(whole, -whole)[0].conj().mT,
        "negative": torch.complex(whole, -whole).conj().imag[:, 1],
        "expanded": torch.arange(3.0).reshape(3, 1).expand(3, 5),
        "nothing": torch.empty(0, 3),
        "one": torch.tensor(3),
        "parameter": torch.nn.Parameter(whole),
    }
    for new in (True, False):
        for protocol in (2, 5):
            torch.save(
                state, tmp_path / "m.pt", pickle_protocol=protocol,
                _use_new_zipfile_serialization=new,
            )  # fmt: skip
            with fs.load(tmp_path / "m.pt") as found:
                for name, tensor in state.items():
                    read = found[name].torch()
                    assert read.dtype == tensor.dtype, name
                    assert read.shape == tensor.shape, name
                    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
                    same = [np.asarray(x.reshape(-1).view(torch.uint8)) for x in (read, plain)]
                    assert np.array_equal(*same), name


@pytest.mark.parametrize("new", [True, False])
def test_tensors_that_share_a_few_bytes_stand_for_no_huge_network(new, tmp_path):
    small = torch.ones(1)
    state = {f"layer{k}.weight": small.expand(1 << 20, 3, 3, 1) for k in range(8)}
    torch.save(state, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError, match=r"repeat 4 bytes until they are 301,989,888; save"):
        fs.load(tmp_path / "m.pt")
    shared = torch.arange(90_000.0).reshape(100, 100, 3, 3)
    state = {f"layer{k}.weight": shared for k in range(24)}
    torch.save(state, tmp_path / "m.pt", _use_new_zipfile_serialization=new)
    with fs.load(tmp_path / "m.pt") as found:
        assert torch.equal(found["layer23.weight"].torch(), shared)


def test_an_archive_of_too_many_parts_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("filtersurgeon.checkpoint.archives._MOST_PARTS", 4)
    torch.save({"conv.weight": torch.ones(2, 2, 3, 3)}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"an archive of \d+ parts, and at most 4 are read"):
        fs.load(tmp_path / "m.pt")


def test_an_encrypted_archive_is_described(tmp_path):
    torch.save(STATE, tmp_path / "m.pt")
    raw = bytearray((tmp_path / "m.pt").read_bytes())
    place = raw.index(b"PK\1\2")
    raw[place + 8] |= 1
    (tmp_path / "m.pt").write_bytes(raw)
    with pytest.raises(CheckpointError, match="it is encrypted; unpack it"):
        fs.load(tmp_path / "m.pt")


NO_CHECKPOINTS = {
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "a web page": b"<!DOCTYPE html><html></html>",
    "at most 100,000,000": struct.pack("<Q", 141_271_624) + b'{"a"',
    "neither safetensors nor": b"\x7fELF" + bytes(40),
}


@pytest.mark.parametrize("told", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_is_named(told, tmp_path):
    (tmp_path / "m.bin").write_bytes(NO_CHECKPOINTS[told])
    with pytest.raises(CheckpointError, match=told):
        fs.load(tmp_path / "m.bin")


def test_a_header_of_too_many_values_is_not_called_corrupt(tmp_path):
    entry = {"dtype": "F32", "shape": [0] * 20, "data_offsets": [0, 0]}
    text = json.dumps({f"a{k}": entry for k in range(100_000)}).encode()
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(CheckpointError, match="header of more than 2,000,000 values; save"):
        fs.load(tmp_path / "m.safetensors")


# Images.


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small network of timm with random weights, whose images have 160x160 pixels."""
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    fs.save(fs.untrained("timm:test_resnet"), path)
    return str(path)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes, depth: int = 8) -> bytes:
    rows = zlib.compressobj(9)
    row, data = bytes(1 + (width * depth + 7) // 8), b""
    for _ in range(min(height, 4_000_000 // len(row))):
        data += rows.compress(row)
    data += rows.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + b"".join(chunks) + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )  # fmt: skip


def _tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8),
            (277, 3, 1), (278, 4, height), (279, 4, 1 << 30)]  # fmt: skip
    rows = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + rows + bytes(4)


_POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n"
    b"(pwned) (w) file closefile showpage\n%%EOF\n"
)
IMAGES = {
    "postscript": _POSTSCRIPT,
    "an icon of macOS": b"icns" + struct.pack(">I", 16) + b"ic07" + struct.pack(">I", 8),
    "a film": b"FLI" + bytes(200),
    "a narrow image": _png(1, 12_000),
    "a narrower one": _png(1, 40_000),
    "a flat one": _png(40_000, 1),
    "a large one": _png(60_000, 60_000),
    "a larger one": _png(1 << 30, 1 << 30),
    "one just beyond": _png(10_001, 10_000, depth=1),
    "none at all": _png(0, 0),
    "a text that grows": _png(8, 8, _chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(200_000_000)))),
    "a profile that grows": _png(8, 8, _chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8)))),
    "a chunk without bytes": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0x7FFFFFFF) + b"IHDR",
    "a wrong sum": _png(8, 8)[:-30] + b"xxxx" + _png(8, 8)[-26:],
    "half an image": _png(300, 300)[:100],
    "a huge table": _tiff(1 << 16, 1 << 15),
    "a huge strip": _tiff(5_000, 5_000),
    "a claim of a bitmap": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, 9_999, 9_999,
                                               1, 24, 0, 0, 0, 0, 0, 0),
    "a claim of a map of greys": b"P5 9999 9999 255\n",
    "a map of endless text": b"P2 " + b"9" * 1_000_000,
    "text": b"no image at all",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("case", IMAGES)
def test_an_image_costs_nothing(case, refused, network, tmp_path):
    (tmp_path / "x.png").write_bytes(IMAGES[case])
    assert "x.png" in refused("activations", network, "--image", "x.png", "-o", "o.json")


_SLOW_IMAGES = [pytest.param(x, marks=pytest.mark.slow) for x in ("a large one", "a wrong sum")]


@pytest.mark.parametrize("case", ["postscript", "a narrower one", *_SLOW_IMAGES])
@pytest.mark.parametrize("verb", ["walk", "gradcam", "eval", "embed", "tune", "prune"])
def test_every_verb_refuses_it(verb, case, refused, network, tmp_path):
    folder = tmp_path / "data" / "0"
    folder.mkdir(parents=True)
    for number in range(4):
        (folder / f"x{number}.png").write_bytes(IMAGES[case])
    data = ("--data", "data", "--labels", "indices")
    words = {
        "walk": ("--image", "data/0/x0.png", "-o", "o.html"),
        "gradcam": ("--image", "data/0/x0.png", "-o", "o.json"),
        "eval": data,
        "embed": (*data, "-o", "o.json"),
        "tune": (*data, "--epochs", "1", "-o", "o.safetensors"),
        "prune": ("--data", "data", "--target", "macs=0.8x", "-o", "o.safetensors"),
    }[verb]
    assert ".png" in refused(verb, network, *words)


def test_a_report_refuses_it(refused, network, tmp_path):
    (tmp_path / "data" / "0").mkdir(parents=True)
    (tmp_path / "data" / "0" / "x.png").write_bytes(IMAGES["a narrower one"])
    assert "x.png" in refused("report", network, "--data", "data", "-o", "r.html")


@pytest.mark.parametrize("case", ["postscript", "a narrower one", *_SLOW_IMAGES])
def test_bad_images_are_left_out_without_cost(case, limited, network, tmp_path):
    folder = tmp_path / "data" / "0"
    folder.mkdir(parents=True)
    for number in range(8):
        (folder / f"x{number}.png").write_bytes(IMAGES[case])
    (folder / "y.png").write_bytes(_png(160, 160))
    words = ("eval", network, "--data", "data", "--labels", "indices", "--skip-bad")
    done = limited(tmp_path, *words)
    assert done["code"] == 0, done
    assert not done["started"]
    assert done["err"].count("x") >= 1


def test_images_of_usual_shapes_are_read(tmp_path):
    from PIL import Image

    from filtersurgeon.data.opening import open_image

    for ending, mode in (("png", "RGBA"), ("jpg", "L"), ("webp", "RGB"), ("bmp", "1"),
                         ("gif", "P"), ("tif", "I;16"), ("pgm", "L")):  # fmt: skip
        Image.new(mode, (40, 1000)).save(tmp_path / f"x.{ending}")
        found = open_image(tmp_path / f"x.{ending}", "x")
        assert found.size == (40, 1000)
        assert np.asarray(found).shape[:2] == (1000, 40)


def _strips(strips: int, data: bytes, *, counts: bool = True) -> bytes:
    """A compressed TIFF of one row a strip, all of which are read from the same bytes."""
    tags = 8 + counts
    place = 8 + 2 + 12 * tags + 4
    begin = place + 8 * strips
    rows = [(256, 4, 1, 100), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1),
            (273, 4, strips, place), (277, 3, 1, 1), (278, 4, 1, 1)]  # fmt: skip
    rows += [(279, 4, strips, place + 4 * strips)] if counts else []
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", tags)
    head += b"".join(struct.pack("<HHII", *row) for row in rows) + bytes(4)
    table = struct.pack("<I", begin) * strips + struct.pack("<I", len(data)) * strips
    return head + table + data


def test_strips_that_share_their_bytes_are_refused(refused, network, tmp_path):
    # Blocks of zlib that hold nothing: a megabyte for each row of a hundred pixels.
    data = b"\x78\x01" + b"\0\0\0\xff\xff" * 200_000 + zlib.compress(bytes(100), 0)[2:]
    (tmp_path / "x.tif").write_bytes(_strips(50_000, data))
    line = refused("activations", network, "--image", "x.tif", "-o", "o.json")
    assert "x.tif consists of strips that share their bytes" in line
    (tmp_path / "x.tif").write_bytes(_strips(50_000, data, counts=False))
    assert "share" in refused("activations", network, "--image", "x.tif", "-o", "o.json")


def test_images_of_many_strips_are_read(tmp_path):
    from PIL import Image

    from filtersurgeon.data.opening import open_image

    pixels = np.random.default_rng(0).integers(0, 255, (2000, 30, 3), np.uint8)
    for compression in ("tiff_deflate", "raw", "jpeg"):
        Image.fromarray(pixels).save(
            tmp_path / "x.tif", compression=compression, tiffinfo={278: 8}, strip_size=800
        )
        found = open_image(tmp_path / "x.tif", "x")
        assert found.size == (30, 2000)
        assert compression == "jpeg" or np.array_equal(np.asarray(found), pixels)
    (tmp_path / "x.tif").write_bytes(_strips(40, zlib.compress(bytes([7]) * 100)))
    assert (np.asarray(open_image(tmp_path / "x.tif", "x")) == 7).all()


def test_pixels_written_as_text_are_few(tmp_path, monkeypatch):
    from filtersurgeon.data.opening import open_image

    (tmp_path / "x.ppm").write_bytes(b"P3 4 4 255\n" + b"9 " * 48)
    assert np.asarray(open_image(tmp_path / "x.ppm", "x")).tolist() == [[[9] * 3] * 4] * 4
    monkeypatch.setattr("filtersurgeon.data.decoding_cost.MOST_NUMBERS", 47)
    with pytest.raises(ImageError, match="x is a text of more than 47 numbers"):
        open_image(tmp_path / "x.ppm", "x")


def test_images_that_are_all_the_same_are_not_laid_out(refused, network, tmp_path):
    from PIL import Image

    (tmp_path / "data" / "0").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "data" / "0" / f"{number}.png")
    line = refused("embed", network, "--data", "data", "-o", "o.json")
    assert "all 5 have the same features" in line


# Folders, links, and files that files name.


def _shards(folder: Path) -> None:
    folder.mkdir()
    table = {"a": "one.safetensors", "b": "two.safetensors"}
    for name, shard in table.items():
        save_file({name: np.ones((2, 3, 3, 3), "f4")}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def _fifo_as_shard(folder: Path) -> None:
    _shards(folder)
    (folder / "two.safetensors").unlink()
    os.mkfifo(folder / "two.safetensors")


def _fifo_as_bin(folder: Path) -> None:
    folder.mkdir()
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "a.bin"}}')
    os.mkfifo(folder / "a.bin")


def _fifo_alone(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "net.safetensors")


def _fifo_as_weights(folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(folder / "model.safetensors")


def _device_as_shard(folder: Path) -> None:
    _shards(folder)
    (folder / "two.safetensors").unlink()
    (folder / "two.safetensors").symlink_to("/dev/zero")


def _link_to_itself(folder: Path) -> None:
    _shards(folder)
    (folder / "two.safetensors").unlink()
    (folder / "two.safetensors").symlink_to("two.safetensors")


def _stale_index(folder: Path) -> None:
    _shards(folder)
    (folder / "two.safetensors").unlink()


def _index_that_leads_out(folder: Path) -> None:
    _shards(folder)
    text = (folder / "model.safetensors.index.json").read_text()
    (folder / "model.safetensors.index.json").write_text(text.replace("two", "../two"))


def _index_of_a_folder(folder: Path) -> None:
    _shards(folder)
    (folder / "two.safetensors").unlink()
    (folder / "two.safetensors").mkdir()


def _index_of_numbers(folder: Path) -> None:
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ' + "9" * 5000 + "}")


def _config_of_brackets(folder: Path) -> None:
    _shards(folder)
    (folder / "config.json").write_text("[" * 100_000)


FOLDERS = {function.__name__[1:]: function for function in (
    _fifo_as_shard, _fifo_as_bin, _fifo_alone, _fifo_as_weights, _device_as_shard, _link_to_itself,
    _stale_index, _index_that_leads_out, _index_of_a_folder, _index_of_numbers, _config_of_brackets,
)}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_is_refused_at_once(case, refused, tmp_path):
    FOLDERS[case](tmp_path / "net")
    assert "net" in refused("inspect", "net")


def test_a_network_has_so_many_parameters_at_most(monkeypatch):
    from filtersurgeon.networks.skeleton import make, parameters_on_meta

    monkeypatch.setattr("filtersurgeon.networks.skeleton.MOST_PARAMETERS", 24)
    with pytest.raises(ArchitectureError, match="more than 24 parameter tensors"):
        make("timm:test_resnet")
    with parameters_on_meta(2):
        torch.nn.Linear(2, 2)
        with pytest.raises(ArchitectureError):
            torch.nn.Linear(2, 2)
    assert not torch.nn.Linear(2, 2).weight.is_meta
    monkeypatch.setattr("filtersurgeon.networks.skeleton.MOST_PARAMETERS", 1000)
    assert len(list(make("timm:test_resnet").parameters())) > 24


@pytest.mark.slow
def test_a_network_without_end_is_not_made(refused, tmp_path):
    (tmp_path / "net").mkdir()
    save_file({"a.weight": np.ones((2, 3, 3, 3), "f4")}, tmp_path / "net" / "model.safetensors")
    config = {"architecture": "resnet18", "model_args": {"layers": [9_999_999, 1, 1, 1]}}
    (tmp_path / "net" / "config.json").write_text(json.dumps(config))
    line = refused("prune", "net", "--per-layer", "--sparsity", "0.5", "-o", "o.safetensors")
    assert "more than 10,000 parameter tensors" in line


def test_what_is_there_is_not_called_missing(refused, network, tmp_path):
    _images(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    line = refused("eval", network, "--data", "data", "--labels", "pipe")
    assert "pipe: not a regular file" in line
    words = ("replace", network, "--all-spatial")
    assert "bank pipe is not a regular" in refused(*words, "--bank", "pipe", "-o", "o.safetensors")
    assert "pipe is not a directory" in refused(*words, "-o", "pipe/o.safetensors")
    assert "none: no such directory" in refused(*words, "-o", "none/o.safetensors")


def _images(folder: Path) -> None:
    (folder / "data" / "0").mkdir(parents=True)
    (folder / "data" / "0" / "x.png").write_bytes(_png(160, 160))


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../secret.png", "0/../../secret.png", "9" * 300, "\0", "0/pipe.png"],
)
@pytest.mark.parametrize("ending", ["csv", "json"])
def test_labels_name_files_of_their_folder_only(name, ending, refused, network, tmp_path):
    _images(tmp_path)
    (tmp_path / "secret.png").write_bytes(_png(160, 160))
    os.mkfifo(tmp_path / "data" / "0" / "pipe.png")
    text = json.dumps({name: 0}) if ending == "json" else f"{name},0\n0/x.png,0\n"
    (tmp_path / f"l.{ending}").write_text(text)
    words = ("--data", "data", "--labels", f"l.{ending}")
    line = refused("eval", network, *words)
    assert f"l.{ending}" in line or "0/pipe.png is not a regular file" in line


def test_a_table_of_labels_without_cells_is_refused(refused, network, tmp_path):
    _images(tmp_path)
    header = "file," + ",".join(f"c{k}" for k in range(20_000))
    (tmp_path / "l.csv").write_text(header + "\n" + "0/x.png\n" * 20_000)
    line = refused("eval", network, "--data", "data", "--labels", "l.csv")
    assert "most cells of its 20,000 rows and 20,001 columns are missing" in line


def test_scores_are_read_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("filtersurgeon.ranking.kernel_scores._LONGEST", 1000)
    (tmp_path / "s.json").symlink_to("/dev/zero")
    (tmp_path / "t.json").write_text("{}")
    for name, why in (("s", "JSON|Expecting"), ("t", "it has no 'layers'"), ("u", "No such file")):
        with pytest.raises(CheckpointError, match=rf"holds no kernel scores \(.*({why})"):
            fs.read_kernel_scores(tmp_path / f"{name}.json")


def test_a_pipe_among_images_is_refused(refused, network, tmp_path):
    _images(tmp_path)
    os.mkfifo(tmp_path / "data" / "0" / "pipe.png")
    line = refused("eval", network, "--data", "data", "--labels", "indices")
    assert "0/pipe.png is not a regular file" in line


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "folder/../pipe"])
def test_recipes_name_files_only(name, refused, network, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    step = f"initialize: {{method: guided_steer, guide: {name}}}"
    (tmp_path / "r.yaml").write_text(f"steps: [{step}]")
    words = (network, "-o", "o.safetensors")
    assert "neither a file nor a directory" in refused("apply", "r.yaml", *words)
    assert "recipe" in refused("apply", "/dev/zero", *words)


@pytest.mark.parametrize("target", ["nowhere", "kept.safetensors"])
def test_an_output_that_is_a_link_needs_force(target, refused, limited, network, tmp_path):
    (tmp_path / "kept.safetensors").write_bytes(b"kept")
    (tmp_path / "o.safetensors").symlink_to(target)
    words = ("replace", network, "--all-spatial", "-o", "o.safetensors")
    refused(*words)
    done = limited(tmp_path, *words, "--force")
    assert done["code"] == 0, done
    assert not (tmp_path / "o.safetensors").is_symlink()
    assert (tmp_path / "kept.safetensors").read_bytes() == b"kept"
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_is_a_link_to_nothing_is_refused(refused, network, tmp_path):
    (tmp_path / "net").symlink_to("nowhere")
    for more in ((), ("--force",)):
        line = refused("replace", network, "--all-spatial", "-o", "net/", *more)
        assert "net" in line


# Names, recipes, histories and numbers.


def test_names_that_are_no_text_are_shown_as_escapes(limited, network, tmp_path):
    name = os.fsdecode(b"\xff\xfe<b>.png")
    (tmp_path / name).write_bytes(_png(160, 160))
    shutil.copy(network, tmp_path / os.fsdecode(b"\xffnet.safetensors"))
    done = limited(tmp_path, "walk", network, "--image", name, "-o", "o.html")
    assert done["code"] == 0, done
    page = (tmp_path / "o.html").read_text("utf-8")
    assert r"\udcff\udcfe\u003cb\u003e.png" in page
    done = limited(tmp_path, "report", os.fsdecode(b"\xffnet.safetensors"), "-o", "r.html")
    assert done["code"] == 0, done
    assert r"\udcffnet.safetensors" in (tmp_path / "r.html").read_text("utf-8")


def _recipe(
    folder: Path, steps: int, step: str = "replace: {bank: dog8, all_spatial: true}"
) -> None:
    (folder / "r.yaml").write_text("steps:\n" + f"- {step}\n" * steps)


def test_a_recipe_of_a_thousand_steps_is_applied(limited, tmp_path):
    weight = np.random.default_rng(0).standard_normal((4, 2, 3, 3)).astype("f4")
    save_file({"a.weight": weight}, tmp_path / "m.safetensors")
    for steps in (1, 1000):
        _recipe(tmp_path, steps)
        done = limited(tmp_path, "apply", "r.yaml", "m.safetensors", "-o", f"o{steps}.safetensors")
        assert done["code"] == 0, done
    once, often = (fs.load(tmp_path / f"o{n}.safetensors") for n in (1, 1000))
    # The closest transform of one of the bank is itself.
    assert np.allclose(often["a.weight"].array(), once["a.weight"].array(), atol=1e-5)
    assert len(often.history) == 1000


@pytest.mark.slow
def test_a_recipe_of_three_thousand_steps_is_planned(limited, network, tmp_path):
    _recipe(tmp_path, 3000)
    done = limited(tmp_path, "apply", "r.yaml", network, "--dry-run", "-o", "plan.json")
    assert done["code"] == 0, done


RECIPES = {
    "a step that fits nothing at the end": "steps:\n" + "- replace: {bank: dog8}\n" * 500
    + "- nothing: {}\n",
    "a number of many digits": f"steps: [fabricate: {{seed: {'9' * 5000}}}]",
    "a text as long as allowed": "steps: [replace: {bank: " + "x" * 200_000 + "}]",
    "no text": "steps: [replace: {bank: \"\\ud800\"}]",
    "more than is read": "steps:\n" + "- replace: {bank: dog8}\n" * 20_000,
    "brackets": "[" * 100_000,
}  # fmt: skip


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_is_refused_in_one_line(case, refused, network, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPES[case])
    refused("apply", "r.yaml", network, "-o", "o.safetensors")


@pytest.mark.parametrize("label", ["9" * 5000, "-" + "9" * 5000, "--1", "-", "٣" * 4999, "1e999"])
@pytest.mark.parametrize("ending", ["csv", "json"])
def test_labels_of_many_digits_are_refused(label, ending, refused, network, tmp_path):
    _images(tmp_path)
    text = json.dumps({"0/x.png": label}) if ending == "json" else f"0/x.png,{label}\n"
    (tmp_path / f"l.{ending}").write_text(text)
    refused("eval", network, "--data", "data", "--labels", f"l.{ending}")


@pytest.mark.parametrize(
    ("labels", "advice"),
    [([2**63 - 1], False), ([2**64 - 1], False), ([-7], False), ([1500], True)],
)
def test_no_head_of_a_senseless_size_is_proposed(labels, advice, refused, network, tmp_path):
    kind = np.uint64 if max(labels) >= 2**63 else np.int64
    np.savez(tmp_path / "i.npz", x=np.zeros((1, 4, 4, 3), np.uint8), y=np.array(labels, kind))
    line = refused("eval", network, "--data", "i.npz", "--labels", "indices")
    assert f"label {labels[0]}, but the network's head has 1000 classes" in line
    assert ("tune --classes 1501" in line) == advice
    assert advice or "tune" not in line


def test_a_damaged_list_of_labels_is_described(refused, network, tmp_path):
    _images(tmp_path)
    (tmp_path / "l.json").write_text('[["0/x.png", 1]]')
    line = refused("eval", network, "--data", "data", "--labels", "l.json")
    assert "(it needs a column called file or filename" in line
    (tmp_path / "l.json").write_text('{"0/x.png": ' + "9" * 5000 + "}")
    line = refused("eval", network, "--data", "data", "--labels", "l.json")
    assert "an integer of thousands of digits" in line
    assert "sys." not in line


@pytest.mark.parametrize("words", [("--units", "9" * 5000), ("--units", "0-" + "9" * 5000)])
def test_units_of_many_digits_are_refused(words, refused, network, tmp_path):
    _images(tmp_path)
    refused("activations", network, "--image", "data/0/x.png", "-o", "o.json", *words)


def test_numbers_that_no_class_and_no_device_has_are_refused(refused, network, tmp_path):
    _images(tmp_path)
    words = ("gradcam", network, "--image", "data/0/x.png", "-o", "o.json")
    assert "is not among the 1000 of the network" in refused(*words, "--class", "9" * 5000)
    assert "is not available" in refused(*words, "--device", "cuda:" + "9" * 50)
    many = "9" * 5000
    line = refused("archetypes", network, "--archetypes", many, "-o", "o.safetensors")
    assert "should be a number such as 16" in line
    step = f"replace: {{bank: random-{many}, all_spatial: true}}"
    (tmp_path / "r.yaml").write_text(f"steps: [{step}]")
    line = refused("apply", "r.yaml", network, "-o", "o.safetensors")
    assert "bank random has at most 1,000,000 members" in line
    assert "with a count from 1 to" in refused("eval", network, "--data", "dashes:" + "9" * 50)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old", "shards"])
def test_more_tensors_than_any_network_has_are_refused(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("filtersurgeon.checkpoint.checkpoint.MOST_TENSORS", 2)
    state = {f"layer{k}.weight": torch.ones(2, 2, 3, 3) for k in range(3)}
    path = tmp_path / "m.pt"
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file({name: tensor.numpy() for name, tensor in state.items()}, path)
    elif kind == "shards":
        for name, tensor in state.items():
            save_file({name: tensor.numpy()}, tmp_path / f"{name}.safetensors")
        path = tmp_path / "model.safetensors.index.json"
        path.write_text(json.dumps({"weight_map": {k: f"{k}.safetensors" for k in state}}))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(CheckpointError, match="holds 3 tensors, and at most 2 are read"):
        fs.load(path)
    monkeypatch.setattr("filtersurgeon.checkpoint.checkpoint.MOST_TENSORS", 3)
    assert len(fs.load(path)) == 3


def test_tensors_may_be_numbered_as_far_as_anyone_likes(limited, tmp_path):
    save_file({f"a.{'9' * 5000}.weight": np.ones((2, 2, 3, 3), "f4")}, tmp_path / "m.safetensors")
    done = limited(tmp_path, "inspect", "m.safetensors")
    assert done["code"] == 0, done


def test_a_long_history_is_shown_cut(limited, tmp_path):
    history = json.dumps([{"verb": "replace", "options": {"bank": f"b{k}"}} for k in range(60_000)])
    save_file({"a.weight": np.ones((4, 2, 3, 3), "f4")}, tmp_path / "m.safetensors",
              {"format": "pt", "history": history})  # fmt: skip
    done = limited(tmp_path, "inspect", "m.safetensors", "--table")
    assert done["code"] == 0, done
    assert "59,960 more steps" in done["out"]
    assert done["out"].count("\n") < 100
    assert "bank=b59999" in done["out"]
    done = limited(tmp_path, "report", "m.safetensors", "-o", "r.html")
    assert done["code"] == 0, done
    assert "59,960 of 60,000 steps" in (tmp_path / "r.html").read_text()


def test_a_history_does_not_steer_the_terminal(limited, tmp_path):
    entry = {"verb": "\x1b[2J\nerror: no", "options": {"\x1b[3J": "[/red]"}, "warning": "\x9bw",
             "data": {"name": "\x07"}}  # fmt: skip
    metadata = {"history": json.dumps([entry])}
    save_file({"a.weight": np.ones((4, 2, 3, 3), "f4")}, tmp_path / "m.safetensors", metadata)
    done = limited(tmp_path, "inspect", "m.safetensors", "--table")
    assert done["code"] == 0, done
    assert all(x.isprintable() for x in done["out"].replace("\n", ""))
    lines = done["out"].splitlines()
    assert r"history: \x1b[2J\nerror: no \x1b[3J=[/red]" in lines
    assert lines[-2:] == [r"  images: \x07", r"  warning: \x9bw"]


@pytest.mark.parametrize("words", [("--help",), ("rank", "--help"), ("--version",), ("schema",)])
def test_what_cannot_be_written_is_said_in_one_line(words, command):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([*command, *words], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: cannot write to standard output: ")
    assert done.stderr.count(b"\n") == 1
