"""Banks of a chosen count: decoded from an autoencoder's code, or its rivals."""

from __future__ import annotations

import numpy as np

from filtersurgeon.banks.autoencoder import FilterAutoencoder
from filtersurgeon.banks.bank import FilterBank, Size
from filtersurgeon.banks.builtin.dct import dct
from filtersurgeon.banks.collection import KernelCollection
from filtersurgeon.errors import OptionError

ORIGINS = ("code", "archetypes", "kmeans", "dct")
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
