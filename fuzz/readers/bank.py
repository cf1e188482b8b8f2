"""Filter banks as safetensors."""

import numpy as np

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.bank import read_bank, save_bank
from fuzz.scratch import FOLDER, place, with_length


def corpus() -> list[bytes]:
    kernels = np.random.default_rng(0).standard_normal((3, 3, 3))
    path = FOLDER / "good.safetensors"
    save_bank(FilterBank("own", kernels, ("a", "b", "c"), "words"), path, force=True)
    return [path.read_bytes()]


repair = with_length


def read(case: bytes) -> None:
    bank = read_bank(place("bank.safetensors", case))
    assert np.isfinite(bank.kernels).all()
    assert len(bank.labels) == len(bank)
