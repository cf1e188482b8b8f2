"""Packed files, by archetypes and by banks, and what they unpack to."""

from dataclasses import replace as replaced

import numpy as np

from filtersurgeon.checkpoint import StoredTensor
from filtersurgeon.checkpoint.safetensors import read_safetensors
from filtersurgeon.inspection import inspect
from filtersurgeon.transforms.pack import pack
from filtersurgeon.transforms.replace import replace
from filtersurgeon.transforms.unpack import unpack
from fuzz.scratch import as_file, checkpoint, look_through, with_length, written


def corpus() -> list[bytes]:
    plain = checkpoint()
    kernels = np.random.default_rng(1).standard_normal((300, 1, 3, 3))
    wide = replaced(
        plain,
        tensors={**plain.tensors, "dw.weight": StoredTensor.from_array(kernels, "F32"),
                 "mix.weight": StoredTensor.from_array(np.ones((300, 1)), "F16")},
    )  # fmt: skip
    return [
        written(pack(plain, layers=["stem"])),
        written(pack(plain, coefficients="random", seed=3, layers=["stem"])),
        written(pack(replace(wide), bank="dog8")),
    ]


repair = with_length


def read(case: bytes) -> None:
    source = as_file(case)
    try:
        packed = read_safetensors(source)
        inspect(packed).to_json()
        look_through(unpack(packed))
    finally:
        source.close()
