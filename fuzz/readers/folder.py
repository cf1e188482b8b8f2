"""Folders: config.json, and an index of shards."""

import json

from filtersurgeon.checkpoint.sources import read_folder
from fuzz.scratch import FOLDER, checkpoint, look_through, written

_HOME = FOLDER / "net"
_SHARD = "one.safetensors"


def corpus() -> list[bytes]:
    cfg = {"architecture": "resnet18", "num_classes": 4, "pretrained_cfg": {"mean": [0.5] * 3}}
    own = {"architecture": "filtersurgeon", "model_args": {"base": "timm:x", "structure": []}}
    index = {"metadata": {}, "weight_map": dict.fromkeys(checkpoint(), _SHARD)}
    return [b"C" + json.dumps(x).encode() for x in (cfg, own)] + [b"I" + json.dumps(index).encode()]


def repair(case: bytes) -> bytes:
    return case if case[:1] in (b"C", b"I") else b"I" + case


def read(case: bytes) -> None:
    _HOME.mkdir(exist_ok=True)
    if not (_HOME / _SHARD).exists():
        (_HOME / _SHARD).write_bytes(written(checkpoint()))
    index = _HOME / "model.safetensors.index.json"
    index.unlink(missing_ok=True)
    (_HOME / "config.json").write_bytes(case[1:] if case[:1] == b"C" else b"{}")
    if case[:1] != b"C":
        index.write_bytes(case[1:])
    look_through(read_folder(_HOME))
