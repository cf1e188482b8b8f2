"""Folders of weights with pipes, links, folders, stale indices and broken shards.

A case is a list of lines. Each makes one thing in the folder: ``w NAME`` weights, ``p NAME`` a
PyTorch archive, ``c NAME`` half of the weights' bytes, ``f NAME`` a named pipe, ``d NAME`` a
folder, ``l NAME TARGET`` a link, ``t NAME TEXT`` a text.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from functools import cache
from pathlib import Path

from filtersurgeon.checkpoint.sinks import check_output
from filtersurgeon.checkpoint.sources import list_weight_files, read_folder
from filtersurgeon.errors import FilterSurgeonError
from fuzz.readers.archive import saved
from fuzz.scratch import FOLDER, checkpoint, look_through, written

_HOME = FOLDER / "tree"
_MOST = 12
_INDEX = b't model.safetensors.index.json {"weight_map": {"dw.weight": "a.safetensors"}}'


@cache
def _contents() -> tuple[bytes, bytes]:
    state = {name: tensor.torch() for name, tensor in checkpoint().tensors.items()}
    return written(checkpoint()), saved(state)


def corpus() -> list[bytes]:
    return [
        b"w model.safetensors",
        b"w a.safetensors\nt config.json {}",
        b"p pytorch_model.bin\nd sub",
        b"w a.safetensors\n" + _INDEX,
        b"l model.safetensors a.bin\nw a.bin\nf pipe",
        b"w model.safetensors\nt model.safetensors.index.json {\nf a.safetensors",
    ]


def refused() -> list[bytes]:
    return [
        b"f a.safetensors\n" + _INDEX,
        b"f a.safetensors",
        b"d a.safetensors\n" + _INDEX,
        b"l a.safetensors a.safetensors\n" + _INDEX,
        b"l a.safetensors /dev/zero\n" + _INDEX,
        b"c a.safetensors\n" + _INDEX,
        _INDEX,
        b"f pytorch_model.bin",
        b"l model.safetensors /nowhere",
    ]


def read(case: bytes) -> None:
    shutil.rmtree(_HOME, ignore_errors=True)
    _HOME.mkdir()
    for line in case.split(b"\n")[:_MOST]:
        # Names that cannot be, or that are there already, make nothing.
        with contextlib.suppress(OSError, ValueError):
            _make(line)
    with contextlib.suppress(FilterSurgeonError):
        list_weight_files(_HOME)
    with contextlib.suppress(FilterSurgeonError):
        check_output(_HOME, force=True)
    look_through(read_folder(_HOME))


def _make(line: bytes) -> None:
    kind, _, rest = line.partition(b" ")
    name, _, more = rest.partition(b" ")
    path = Path(os.fsdecode(os.path.join(os.fsencode(_HOME), os.path.basename(name))))
    if path == _HOME:
        return
    weights, archive = _contents()
    files = {b"w": weights, b"p": archive, b"c": weights[: len(weights) // 2], b"t": more}
    if kind in files:
        if not path.exists() and not path.is_symlink():
            path.write_bytes(files[kind])
    elif kind == b"f":
        os.mkfifo(path)
    elif kind == b"d":
        path.mkdir()
    elif kind == b"l":
        path.symlink_to(os.fsdecode(more))
