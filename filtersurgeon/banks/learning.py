"""Learn and sample filter banks of a chosen count: from an autoencoder's code, or its rivals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from filtersurgeon.banks.autoencoder import (
    FilterAutoencoder,
    LearningSettings,
    read_autoencoder,
    train_autoencoder,
)
from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.banks.builtin.dct import dct
from filtersurgeon.banks.collection import KernelCollection, collect_kernels, kernel_sizes
from filtersurgeon.banks.joint import choose_derivatives
from filtersurgeon.banks.scale_space import can_fit
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import LayerError, OptionError, near_misses

ORIGINS = ("code", "archetypes", "kmeans", "scale-space", "dct")
"""Where members come from; all but the first and the last are found in kernels."""
_CORESET = 2000  # kernels from which on archetypes are found in a weighted sample


def sample_code(autoencoder: FilterAutoencoder, count: int) -> FilterBank:
    """Decode ``count`` points that lie evenly in the code, each in the middle of its part.

    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 3.1.
    """
    _check_count(count)
    codes = (np.arange(count) + 0.5) / count
    labels = tuple(f"{code:.4g}" for code in codes)
    text = f"{count} points of an autoencoder's code, decoded"
    return FilterBank(f"code-{count}", autoencoder.decode(codes), labels, text)


def sample_archetypes(collection: KernelCollection, count: int, seed: int = 0) -> FilterBank:
    """Take the archetypes of the kernels, mean-free, of unit norm and on one side.

    More than 2,000 kernels are represented by a weighted sample of so many.

    Raises:
        OptionError: fewer kernels differ.
    """
    from filtersurgeon.archetypes import archetypal_analysis

    _check_count(count)
    kernels = collection.sign_aligned()
    size = _CORESET if len(kernels) > _CORESET else None
    found = archetypal_analysis(kernels, count, coreset_size=size, random_state=seed)
    if found.n_archetypes < count:
        raise OptionError(
            f"`count` {count} is more than the {found.n_archetypes} kernels that differ"
        )
    assert found.archetypes is not None
    return _bank("archetypes", found.archetypes, collection.size)


def sample_kmeans(collection: KernelCollection, count: int, seed: int = 0) -> FilterBank:
    """Take the centres of scikit-learn's k-means of the kernels, normalised and on one side.

    Raises:
        OptionError: fewer kernels differ.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    _check_count(count)
    kernels = collection.sign_aligned()
    distinct = len(np.unique(kernels, axis=0))
    if distinct < count:
        raise OptionError(f"`count` {count} is more than the {distinct} kernels that differ")
    with threadpool_limits(1):  # the sums of more threads depend on their number
        found = KMeans(count, n_init=4, random_state=seed).fit(kernels)
    return _bank("kmeans", found.cluster_centers_, collection.size)


def sample_dct(size: Size, count: int) -> FilterBank:
    """Take the cosines of lowest frequency but the constant, for which the offset stands.

    Raises:
        OptionError: a kernel of that size has fewer.
    """
    _check_count(count)
    total = size[0] * size[1] - 1
    if count > total:
        raise OptionError(
            f"`count` {count}: kernels of {size[0]}x{size[1]} have {total} cosines but the constant"
        )
    whole = dct(size, count=count + 1)
    text = f"{count} cosines of lowest frequency, the constant left out"
    return FilterBank(f"dct-{count}", whole.kernels[1:], whole.labels[1:], text)


def _check_count(count: int) -> None:
    if count < 1:
        raise OptionError(f"`count` {count} should be at least 1")


def _bank(origin: str, kernels: np.ndarray, size: Size) -> FilterBank:
    labels = tuple(str(k) for k in range(1, len(kernels) + 1))
    text = f"{len(kernels)} {origin} of trained kernels"
    return FilterBank(f"{origin}-{len(kernels)}", kernels.reshape(-1, *size), labels, text)


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
    """Make a bank of K kernels, from an autoencoder, clusters or cosines.

    Args:
        source: for ``code`` an autoencoder or its file; for ``archetypes``, ``kmeans`` and
            ``scale-space`` checkpoints; for ``dct`` None.
        count: number of members.
        origin: ``code`` (points that lie evenly in the code), ``archetypes``, ``kmeans``,
            ``scale-space`` (derivatives of Gaussians, chosen for the kernels of all odd sizes
            together, and good for every odd size) or ``dct``.
        size: side of the kernels; for ``dct`` needed, else None where all have the same; None
            takes all of ``scale-space``.
        layers: globs, of ``archetypes``, ``kmeans`` and ``scale-space``.
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
    if origin == "scale-space":
        sizes = [(size, size)] if size else _odd_sizes(given, layers, all_spatial)
        return choose_derivatives(
            [collect_kernels(given, each, layers, all_spatial) for each in sizes], count, seed
        )
    collection = collect_kernels(given, _square(size), layers, all_spatial)
    sample = sample_archetypes if origin == "archetypes" else sample_kmeans
    return sample(collection, count, seed)


def _odd_sizes(
    checkpoints: Sequence[Checkpoint], layers: Iterable[str] | None, all_spatial: bool
) -> list[Size]:
    found = kernel_sizes(checkpoints, layers, all_spatial)
    odd = [size for size in found if can_fit(size)]
    if not odd:
        known = ", ".join(f"{height}x{width}" for height, width in found)
        raise LayerError(f"kernels of {known} have no middle, which derivatives need")
    return odd


def _square(size: int | None) -> Size | None:
    return None if size is None else (size, size)
