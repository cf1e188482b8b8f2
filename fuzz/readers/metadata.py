"""What a file says of itself: its history, structure, and description of preprocessing."""

import json

from filtersurgeon.checkpoint.safetensors import format_header, read_safetensors
from filtersurgeon.inspection import inspect
from fuzz.scratch import as_file, checkpoint, history

_SEPARATOR = b"\0\0"
_KEYS = ("history", "structure", "pretrained_cfg", "architecture", "ranking", "packed")


def corpus() -> list[bytes]:
    described = checkpoint(
        architecture="torchvision:y", pretrained_cfg={"mean": [0.5, 0.5], "num_classes": 4},
        history=history(), structure=({"edit": "activation", "kind": "relu", "slope": 0.0},),
    ).metadata()  # fmt: skip
    whole = _SEPARATOR.join(described.get(key, "").encode() for key in _KEYS)
    single = [_SEPARATOR * _KEYS.index(k) + described[k].encode() for k in _KEYS if k in described]
    return [whole, *single]


def read(case: bytes) -> None:
    texts = case.decode("utf-8", "replace").split(_SEPARATOR.decode())
    stated = {key: text for key, text in zip(_KEYS, texts, strict=False) if text}
    header = format_header({"w.weight": ("F32", (1, 1, 3, 3))}, stated)
    with read_safetensors(as_file(header + bytes(36))) as found:
        found.metadata()
        json.dumps(inspect(found).to_json())
