"""Filter autoencoders."""

from itertools import pairwise

import numpy as np

from filtersurgeon.banks.autoencoder import FilterAutoencoder, read_autoencoder, save_autoencoder
from fuzz.scratch import FOLDER, place, with_length


def corpus() -> list[bytes]:
    random = np.random.default_rng(0)

    def chain(*sizes: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        pairs = pairwise(sizes)
        return tuple((random.standard_normal((b, a)), random.standard_normal(b)) for a, b in pairs)

    made = FilterAutoencoder((3, 3), chain(9, 4, 1), chain(1, 4, 9), {"seed": 0})
    path = FOLDER / "good.safetensors"
    save_autoencoder(made, path, force=True)
    return [path.read_bytes()]


repair = with_length


def read(case: bytes) -> None:
    found = read_autoencoder(place("autoencoder.safetensors", case))
    assert found.decode(np.array([0.5])).shape == (1, *found.size)
    assert found.encode(np.ones((1, found.size[0] * found.size[1]))).shape == (1,)
