"""Learn and sample filter banks: the entry points that take checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from filtersurgeon.banks.autoencoder import FilterAutoencoder, read_autoencoder
from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.banks.collection import collect_kernels
from filtersurgeon.banks.sampling import (
    ORIGINS,
    sample_archetypes,
    sample_code,
    sample_dct,
    sample_kmeans,
)
from filtersurgeon.banks.training import LearningSettings, train_autoencoder
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import OptionError, near_misses

_DEFAULT = LearningSettings()


def learn_bank(
    checkpoints: Checkpoint | Sequence[Checkpoint],
    settings: LearningSettings = _DEFAULT,
    *,
    size: int | None = None,
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
    progress: Progress | None = None,
) -> FilterAutoencoder:
    """Train an autoencoder with a one-dimensional code on the kernels of networks.

    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 3.1.

    Args:
        checkpoints: one network or several, a model bank.
        settings: how to train.
        size: side of the kernels; None where all have the same.
        layers: globs; None takes all.
        all_spatial: take the kernels of standard convolutions too.
        progress: told epochs done and epochs at most.

    Returns:
        The autoencoder; ``save_autoencoder`` writes it, ``sample_bank`` makes banks of it.

    Raises:
        LayerError: no kernels of that size, too few of them, or of several sizes.
        OptionError: unusable settings.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> autoencoder = fs.learn_bank(
        ...     checkpoint, fs.LearningSettings(epochs=1), layers=["conv1.0"], all_spatial=True
        ... )
        >>> fs.sample_bank(autoencoder, 4).kernels.shape
        (4, 3, 3)
    """
    given = [checkpoints] if isinstance(checkpoints, Checkpoint) else list(checkpoints)
    collection = collect_kernels(given, _square(size), layers, all_spatial)
    return train_autoencoder(collection, settings, progress)


def sample_bank(
    source: FilterAutoencoder | str | Path | Checkpoint | Sequence[Checkpoint] | None,
    count: int,
    *,
    origin: str = "code",
    size: int | None = None,
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
    seed: int = 0,
) -> FilterBank:
    """Make a bank of a chosen count.

    Args:
        source: for ``code`` an autoencoder or its file; for ``archetypes`` and ``kmeans``
            checkpoints; for ``dct`` None.
        count: number of members.
        origin: ``code`` (points that lie evenly in the code), ``archetypes``, ``kmeans`` or
            ``dct``.
        size: side of the kernels; for ``dct`` needed, else None where all have the same.
        layers: globs, of ``archetypes`` and ``kmeans``.
        all_spatial: likewise; take the kernels of standard convolutions too.
        seed: likewise, of their starts.

    Raises:
        CheckpointError: the file is no autoencoder.
        LayerError: no kernels of that size.
        OptionError: an unknown origin, a source that does not go with it, or more members than
            there can be.

    Examples:
        >>> import filtersurgeon as fs
        >>> fs.sample_bank(None, 4, origin="dct", size=5).kernels.shape
        (4, 5, 5)
    """
    if origin not in ORIGINS:
        raise OptionError(f"no origin {origin!r} of banks{near_misses(origin, ORIGINS)}")
    if origin == "code":
        if isinstance(source, str | Path):
            source = read_autoencoder(source)
        if not isinstance(source, FilterAutoencoder):
            raise OptionError("banks are decoded from what fsurgeon bank learn makes")
        if size is not None and source.size != (size, size):
            sides = "x".join(map(str, source.size))
            raise OptionError(f"the autoencoder decodes kernels of {sides}, not of `size` {size}")
        return sample_code(source, count)
    if origin == "dct":
        if size is None:
            raise OptionError("cosines need the `size` of the kernels")
        return sample_dct((size, size), count)
    given = [source] if isinstance(source, Checkpoint) else source
    if not isinstance(given, list | tuple) or not given:
        raise OptionError(f"{origin} are found in networks; name one")
    collection = collect_kernels(given, _square(size), layers, all_spatial)
    sample = sample_archetypes if origin == "archetypes" else sample_kmeans
    return sample(collection, count, seed)


def _square(size: int | None) -> Size | None:
    return None if size is None else (size, size)
