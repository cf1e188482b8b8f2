"""PyTorch archives of the present kind, which are zip files, with any byte broken."""

import io

import torch

from filtersurgeon.checkpoint.sources import read_stream
from fuzz.scratch import as_file, look_through


def saved(content: object, new: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def contents() -> list[object]:
    state = {"a.weight": torch.arange(18.0).reshape(2, 1, 3, 3), "a.bias": torch.ones(2).bfloat16()}
    return [
        state,
        {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        {
            "model": {"w": torch.nn.Parameter(torch.ones(2, 2).half())},
            "ema": None,
            "args": [1, "x"],
        },
        {"q": torch.ones(3, dtype=torch.complex64).conj(), "t": torch.ones(3, 2).t()},
    ]


def odd_contents() -> list[object]:
    return [
        {"q": torch.ones(3), "s": torch.eye(2).to_sparse()},
        {"w": torch.empty(2, device="meta")},
        {"w": torch.ones(2, dtype=torch.complex128)},
    ]


def corpus() -> list[bytes]:
    return [saved(content) for content in contents()]


def refused() -> list[bytes]:
    return [saved(content) for content in odd_contents()]


def read(case: bytes) -> None:
    source = as_file(case)
    try:
        look_through(read_stream(source))
    finally:
        source.close()
