"""Safetensors from a regular file; what is read can be written, and is then read the same."""

from filtersurgeon.checkpoint.safetensors import read_safetensors
from fuzz.scratch import as_file, checkpoint, history, look_through, with_length, written


def corpus() -> list[bytes]:
    described = checkpoint(
        architecture="timm:x", pretrained_cfg={"mean": [0.5]}, history=history(),
        structure=({"edit": "set", "module": "a", "values": {"b": 1}},), annotations={"note": "✓"},
    )  # fmt: skip
    return [written(checkpoint()), written(described)]


repair = with_length


def read(case: bytes) -> None:
    source = as_file(case)
    try:
        found = read_safetensors(source)
        look_through(found)
    finally:
        source.close()
    again = as_file(case)
    with read_safetensors(again) as first:
        second = read_safetensors(as_file(written(first)))
        with second:
            assert second.digest == first.digest
            assert second.metadata() == first.metadata()
