"""Filter banks as NumPy archives, with their checksums made right."""

import io
import zipfile

import numpy as np

from filtersurgeon.banks.bank import read_bank
from fuzz.scratch import place

_SEPARATOR = b"\0MEMBER\0"


def corpus() -> list[bytes]:
    kernels = np.random.default_rng(0).standard_normal((3, 3, 3))
    arrays = (kernels, kernels.astype("f4"), np.asfortranarray(kernels))
    files = []
    for array in arrays:
        file = io.BytesIO()
        np.save(file, array)
        files.append(file.getvalue())
    return [*files, _SEPARATOR.join(files)]


def refused() -> list[bytes]:
    file = io.BytesIO()
    np.save(file, np.arange(3))
    return [file.getvalue()]


def read(case: bytes) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as whole:
        for number, member in enumerate(case.split(_SEPARATOR)[:4]):
            whole.writestr("kernels.npy" if not number else f"other{number}.npy", member)
    read_bank(place("bank.npz", file.getvalue()))
