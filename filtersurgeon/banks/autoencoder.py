"""The filter autoencoder: kernels encoded as one number, and kernels decoded from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from filtersurgeon.banks.bank import Size
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.atomic import atomic_file, check_target
from filtersurgeon.checkpoint.folder import read_any
from filtersurgeon.checkpoint.jsontext import parse_json
from filtersurgeon.checkpoint.sinks import write_stream
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import CheckpointError

SCHEMA = "filtersurgeon.filter-autoencoder/1"
SLOPE = 0.01
"""Of Leaky ReLU below zero."""

Chain = tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class FilterAutoencoder:
    """A trained autoencoder with a one-dimensional code.

    Encoder and decoder have four intermediate layers each, with Leaky ReLU; the code is a sigmoid,
    the output a tanh.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 3.1.

    Attributes:
        size: height and width of the kernels.
        encoder: weight ``(out, in)`` and bias ``(out,)`` of each layer.
        decoder: likewise.
        recipe: how it was trained, and how well it does; a JSON document.
    """

    size: Size
    encoder: Chain
    decoder: Chain
    recipe: Mapping[str, Any]

    def __repr__(self) -> str:
        sizes = [
            self.encoder[0][0].shape[1],
            *(len(bias) for _, bias in self.encoder + self.decoder),
        ]
        size = "x".join(map(str, self.size))
        return summarise(self, size=size, widths="-".join(map(str, sizes)))

    def encode(self, kernels: np.ndarray) -> np.ndarray:
        """Give the codes ``(N,)``, in 0..1, of mean-free kernels of unit norm ``(N, h * w)``."""
        codes: np.ndarray = 1 / (1 + np.exp(-_forward(self.encoder, kernels)))
        return codes[:, 0]

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Give the kernels ``(N, h, w)`` of codes ``(N,)``."""
        kernels = np.tanh(_forward(self.decoder, np.asarray(codes)[:, None]))
        return kernels.reshape(-1, *self.size)


def _forward(chain: Chain, values: np.ndarray) -> np.ndarray:
    for number, (weight, bias) in enumerate(chain):
        values = values @ weight.T.astype(np.float64) + bias
        if number < len(chain) - 1:
            values = np.where(values > 0, values, SLOPE * values)
    return values


def save_autoencoder(
    autoencoder: FilterAutoencoder, path: str | Path, *, force: bool = False
) -> None:
    """Write an autoencoder with its recipe as safetensors; raises CheckpointError as ``save``.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> settings = fs.LearningSettings(epochs=1)
        >>> learnt = fs.learn_bank(checkpoint, settings, size=3, all_spatial=True)
        >>> with TemporaryDirectory() as folder:
        ...     fs.save_autoencoder(learnt, Path(folder, "a.safetensors"))
        ...     again = fs.read_autoencoder(Path(folder, "a.safetensors"))
        >>> again.size, again.encoder[0][0].shape
        ((3, 3), (256, 9))
    """
    check_target(Path(path), force)
    tensors = {
        f"{half}.{number}.{part}": StoredTensor.from_array(values, "F32")
        for half, chain in (("encoder", autoencoder.encoder), ("decoder", autoencoder.decoder))
        for number, pair in enumerate(chain)
        for part, values in zip(("weight", "bias"), pair, strict=True)
    }
    annotations = {
        "schema": SCHEMA,
        "size": json.dumps(list(autoencoder.size)),
        "recipe": json.dumps(dict(autoencoder.recipe), sort_keys=True),
    }
    with atomic_file(Path(path)) as file:
        write_stream(Checkpoint(tensors, annotations=annotations), file)


def read_autoencoder(path: str | Path) -> FilterAutoencoder:
    """Read an autoencoder that :func:`save_autoencoder` wrote.

    Raises:
        CheckpointError: the file is none.

    Examples:
        >>> import filtersurgeon as fs
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> settings = fs.LearningSettings(epochs=1)
        >>> learnt = fs.learn_bank(checkpoint, settings, size=3, all_spatial=True)
        >>> with TemporaryDirectory() as folder:
        ...     fs.save_autoencoder(learnt, Path(folder, "a.safetensors"))
        ...     again = fs.read_autoencoder(Path(folder, "a.safetensors"))
        >>> again.size, again.encoder[0][0].shape
        ((3, 3), (256, 9))
    """
    with read_any(Path(path)) as stored:
        try:
            if stored.annotations["schema"] != SCHEMA:
                raise ValueError(stored.annotations["schema"])
            height, width = (int(n) for n in parse_json(stored.annotations["size"]))
            recipe = dict(parse_json(stored.annotations["recipe"]))
            encoder, decoder = _chain(stored, "encoder"), _chain(stored, "decoder")
        except (KeyError, ValueError, TypeError, IndexError, OverflowError):
            raise CheckpointError(
                f"{path} is no filter autoencoder; fsurgeon bank learn makes one"
            ) from None
    found = FilterAutoencoder((height, width), encoder, decoder, recipe)
    if not encoder[0][0].shape[1] == height * width == len(decoder[-1][0]):
        raise CheckpointError(f"{path} is corrupt: its layers do not fit kernels of its size")
    return found


def _chain(stored: Checkpoint, half: str) -> Chain:
    count = sum(name.startswith(f"{half}.") for name in stored) // 2
    chain = tuple(
        (stored[f"{half}.{k}.weight"].array(), stored[f"{half}.{k}.bias"].array())
        for k in range(count)
    )
    fits = all(len(bias) == len(weight) for weight, bias in chain) and all(
        len(one[0]) == two[0].shape[1] for one, two in pairwise(chain)
    )
    if not chain or not fits or not all(np.isfinite(w).all() for pair in chain for w in pair):
        raise ValueError(half)
    return chain
