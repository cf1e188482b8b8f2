"""The filter autoencoder: kernels encoded as one number and decoded from it, and its training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.banks.bank import Size
from filtersurgeon.banks.collection import KernelCollection
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.atomic import atomic_file, check_target
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.checkpoint.sinks import write_stream
from filtersurgeon.checkpoint.sources import read_any
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import CheckpointError, LayerError, OptionError
from filtersurgeon.networks.devices import copy_number, find_device, seeded

if TYPE_CHECKING:
    import torch
    from torch import nn

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
                f"{path} is not a filter autoencoder; fsurgeon bank learn makes one"
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


WIDTHS = (256, 128, 64, 16)
"""Of the encoder's intermediate layers; the decoder has them the other way round."""

_FEWEST = 20
_BATCHES = 64  # per epoch, until a batch has 1,024 kernels
_SLOWER_AFTER = 8  # epochs without progress, then the learning rate is halved


@dataclass(frozen=True)
class LearningSettings:
    """Settings of training.

    Attributes:
        epochs: passes over the kernels, at most.
        patience: stop after so many without a better validation loss.
        lr: Adam's learning rate at first; it is halved where the loss stands still.
        validation: share of the kernels that only tell when to stop.
        seed: of the initial weights, the order, and what is held out.
        device: torch's name of the device; ``auto`` is a GPU if there is one.
    """

    epochs: int = 300
    patience: int = 30
    lr: float = 2e-3
    validation: float = 0.1
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.patience < 1 or self.lr <= 0 or not 0 < self.validation < 1:
            raise OptionError(
                "epochs and patience should be at least 1, lr above 0, validation between 0 and 1"
            )


def train_autoencoder(
    collection: KernelCollection,
    settings: LearningSettings = LearningSettings(),
    progress: Progress | None = None,
) -> FilterAutoencoder:
    """Train an autoencoder with a one-dimensional code on normalised kernels.

    Kernels are mean-free and of unit norm, so the squared error is what a closest linear transform
    by the decoded kernel would leave at most.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 3.1.

    Args:
        collection: the kernels.
        settings: how to train.
        progress: told epochs done and epochs at most.

    Returns:
        The network of the best validation loss.

    Raises:
        LayerError: fewer than 20 kernels that are not constant.
        OptionError: there is no such device.
    """
    kernels = collection.normalised()
    if len(kernels) < _FEWEST:
        raise LayerError(
            f"{len(kernels)} kernels are too few to learn from; pass more checkpoints, or "
            f"`all_spatial` (at least {_FEWEST})"
        )
    device = find_device(settings.device)
    with seeded(settings.seed), _one_thread():
        encoder, decoder = _networks(kernels.shape[1])
        pair = _Pair(encoder.to(device), decoder.to(device))
        report = _train(pair, kernels, settings, progress)
    recipe = {
        "checkpoints": list(collection.digests),
        "layers": collection.layers,
        "kernels": len(kernels),
        "widths": list(WIDTHS),
        **{k: v for k, v in asdict(settings).items() if k != "device"},
        **report,
    }
    return FilterAutoencoder(collection.size, _arrays(encoder), _arrays(decoder), recipe)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Work on one thread: layers this small only wait for one another on more."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class _Pair:
    """Encoder and decoder."""

    encoder: nn.Module
    decoder: nn.Module

    def loss(self, kernels: torch.Tensor) -> torch.Tensor:
        """Give the mean squared distance of kernels ``(N, m)`` to what is decoded of them."""
        difference = self.decoder(self.encoder(kernels)) - kernels
        return difference.square().sum(dim=1).mean()

    def state(self) -> Any:
        return deepcopy((self.encoder.state_dict(), self.decoder.state_dict()))

    def restore(self, state: Any) -> None:
        self.encoder.load_state_dict(state[0])
        self.decoder.load_state_dict(state[1])

    def parameters(self) -> list[torch.Tensor]:
        return [*self.encoder.parameters(), *self.decoder.parameters()]


def _networks(inputs: int) -> tuple[nn.Sequential, nn.Sequential]:
    from torch import nn

    def chain(sizes: list[int], last: nn.Module) -> nn.Sequential:
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), nn.LeakyReLU(SLOPE)]
        return nn.Sequential(*layers[:-1], last)

    return (
        chain([inputs, *WIDTHS, 1], nn.Sigmoid()),
        chain([1, *reversed(WIDTHS), inputs], nn.Tanh()),
    )


def _train(
    pair: _Pair,
    kernels: np.ndarray,
    settings: LearningSettings,
    progress: Progress | None,
) -> dict[str, Any]:
    import torch
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    device = next(pair.encoder.parameters()).device
    order = torch.randperm(len(kernels))
    values = torch.from_numpy(kernels).float()[order].to(device)
    held_out = max(1, round(settings.validation * len(values)))
    validation, training = values[:held_out], values[held_out:]
    batch = min(1024, max(32, len(training) // _BATCHES))
    optimizer = torch.optim.Adam(pair.parameters(), settings.lr)
    slower = ReduceLROnPlateau(optimizer, factor=0.5, patience=_SLOWER_AFTER)
    best, best_epoch, state, epoch = float("inf"), 0, pair.state(), 0
    for epoch in range(1, settings.epochs + 1):
        for part in torch.randperm(len(training)).to(device).split(batch):
            optimizer.zero_grad()
            pair.loss(training[part]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = copy_number(pair.loss(validation))
        slower.step(loss)
        if loss < best:
            best, best_epoch, state = loss, epoch, pair.state()
        if progress:
            progress(epoch, settings.epochs)
        if epoch - best_epoch >= settings.patience:
            break
    pair.restore(state)
    return {"epochs_run": epoch, "best_epoch": best_epoch, "validation_loss": best}


def _arrays(network: nn.Sequential) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    from torch import nn

    return tuple(
        (layer.weight.detach().cpu().numpy(), layer.bias.detach().cpu().numpy())
        for layer in network
        if isinstance(layer, nn.Linear)
    )
