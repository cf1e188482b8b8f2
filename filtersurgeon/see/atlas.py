"""Map the spatial kernels of networks: bank members, Gaussian fits, and a plane to see them in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from filtersurgeon.banks import FilterBank, load_bank
from filtersurgeon.banks.bank import BankSource, Size
from filtersurgeon.banks.closest import closest_linear, unit_bank
from filtersurgeon.banks.gaussian_fit import fit_gaussians
from filtersurgeon.banks.scale_space import can_fit
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.explain.explanation import reads_images
from filtersurgeon.filters import FilterLayer, select_spatial
from filtersurgeon.networks.opened_module import analyses_several
from filtersurgeon.see.embedding import METHODS, project
from filtersurgeon.see.kernel_atlas import NONE, KernelAtlas, MappedLayer

_FEWEST = 4  # points that a layout needs


@analyses_several
def map_kernels(
    checkpoints: Sequence[Checkpoint],
    *,
    bank: str | FilterBank = "dog8",
    method: str | None = "tsne",
    points: int = 3000,
    layers: Iterable[str] | None = None,
    seed: int = 0,
    perplexity: float = 30.0,
    progress: Progress | None = None,
) -> KernelAtlas:
    """Describe every spatial kernel of one or more networks, and lay them out in one plane.

    Every kernel gets the closest member of a bank and the closest derivative of a Gaussian, both
    up to scale, sign and offset, as ``replace`` finds them. The layout is of the mean-free kernels
    of unit norm, turned to the side of their member, smaller ones in the middle of zeros.
    Source of the Gaussian models: Babaiee et al., *We Need Far Fewer Unique Filters Than We
    Thought*, 2024, section 3.2, after Lindeberg.

    Args:
        checkpoints: one or more networks, or modules in memory; they are not run.
        bank: a built-in bank's name, a bank file, or a bank.
        method: ``tsne``, ``pca`` or ``umap``; None describes the kernels only.
        points: lay out so many kernels at most, drawn at random: equal shares of the networks, and
            in each of them of the layers.
        layers: globs; None takes every spatial convolution.
        seed: of the draw and of the layout.
        perplexity: of ``tsne``, and the number of neighbours of ``umap``.
        progress: told kernels done and kernels in all.

    Raises:
        LayerError: a network has no spatial convolution, or weights that are not finite; fewer than
            four kernels to lay out.
        OptionError: an unknown method or bank.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.map_kernels([checkpoint], method="pca", points=100)
        >>> found.points.shape, len(found.layers[0])
        ((100, 2), 48)
        >>> sum(part["kernels"] for part in found.usage()) == sum(map(len, found.layers))
        True
    """
    if method is not None and method not in METHODS:
        raise OptionError(f"method {method!r} is unknown{near_misses(method, METHODS)}")
    if points < _FEWEST:
        raise OptionError(f"`points` {points} should be at least {_FEWEST}")
    source = load_bank(bank)
    chosen = [_spatial(checkpoint, layers) for checkpoint in checkpoints]
    total, done = sum(x.n_kernels for each in chosen for x in each), 0
    mapped: list[MappedLayer] = []
    for network, each in enumerate(chosen):
        for place, layer in enumerate(each):
            depth = place / max(1, len(each) - 1)
            mapped.append(_describe(network, depth, layer, source))
            done += layer.n_kernels
            if progress:
                progress(done, total)
    sizes = sorted({x.kernel_size for x in mapped})
    banks = {size: found for size in sizes if (found := source.at(size))}
    labels = next(iter(banks.values())).labels if banks else ()
    shown, places = np.empty((0, 2), np.int64), np.empty((0, 2))
    kernels: tuple[np.ndarray, ...] = ()
    if method is not None:
        shown = _draw(mapped, len(chosen), points, seed)
        kernels = _weights([x for each in chosen for x in each], shown)
        if len(shown) < _FEWEST:
            raise LayerError(
                f"{len(shown)} kernels that are not constant; a layout needs at least {_FEWEST}"
            )
        places = project(_features(kernels, mapped, shown, banks), method, seed, perplexity)
    return KernelAtlas(
        tuple(checkpoint.name for checkpoint in checkpoints), source.name, tuple(labels),
        tuple(mapped), method, places, shown, kernels,
        {size: found.kernels for size, found in banks.items()},
    )  # fmt: skip


def _spatial(checkpoint: Checkpoint, globs: Iterable[str] | None) -> list[FilterLayer]:
    spatial = select_spatial(checkpoint, globs, "map")
    return sorted(spatial, key=lambda layer: not reads_images(layer))


def _describe(network: int, depth: float, layer: FilterLayer, source: BankSource) -> MappedLayer:
    """Find the bank member and the derivative of a Gaussian that come closest to each kernel."""
    kernels = layer.matrix().reshape(layer.n_kernels, -1).astype(np.float64)
    varied = unit_bank(kernels).any(axis=1)
    member = np.full(len(kernels), NONE)
    cosine, sigma_x, sigma_y, residual = np.full((4, len(kernels)), np.nan)
    order = np.full(len(kernels), NONE)
    bank = source.at(layer.kernel_size)
    if bank is not None:
        fit = closest_linear(kernels, unit_bank(bank.kernels.reshape(len(bank), -1)))
        spread = np.linalg.norm(kernels - kernels.mean(axis=1, keepdims=True), axis=1)
        member[varied] = fit.choice[varied]
        cosine[varied] = np.minimum(np.abs(fit.scale[varied]) / spread[varied], 1.0)
    if can_fit(layer.kernel_size):
        order, sigma_x, sigma_y, residual = fit_gaussians(kernels, layer.kernel_size)
    return MappedLayer(
        network, layer.name, depth, layer.kernel_size, member, cosine, order, sigma_x, sigma_y,
        residual,
    )  # fmt: skip


def _draw(layers: Sequence[MappedLayer], networks: int, points: int, seed: int) -> np.ndarray:
    """Choose the kernels to lay out: layer and kernel, ``(P, 2)``.

    Networks get equal shares, and in each of them layers do; what small ones leave goes to others.
    """
    generator = np.random.default_rng(seed)
    varied = [np.flatnonzero(~((x.order == NONE) & (x.member == NONE))) for x in layers]
    # Without a bank or a fit of the size it is not known which kernels are constant.
    pools = [
        pool if len(pool) else np.arange(len(x)) for pool, x in zip(varied, layers, strict=True)
    ]
    own = [[k for k, x in enumerate(layers) if x.network == n] for n in range(networks)]
    totals = _shares([sum(len(pools[k]) for k in each) for each in own], points)
    chosen = []
    for each, total in zip(own, totals, strict=True):
        for k, count in zip(each, _shares([len(pools[k]) for k in each], total), strict=True):
            drawn = np.sort(generator.choice(pools[k], count, replace=False))
            chosen.append(np.stack([np.full(count, k), drawn], axis=1))
    return np.concatenate(chosen)


def _shares(sizes: Sequence[int], total: int) -> list[int]:
    """Divide a number evenly among parts that hold so many; what small parts leave goes on."""
    found, left = [0] * len(sizes), total
    for rank, k in enumerate(sorted(range(len(sizes)), key=lambda k: sizes[k])):
        found[k] = min(sizes[k], left // (len(sizes) - rank))
        left -= found[k]
    return found


def _weights(layers: Sequence[FilterLayer], shown: np.ndarray) -> tuple[np.ndarray, ...]:
    kernels: list[np.ndarray] = []
    for k in np.unique(shown[:, 0]):
        layer = layers[int(k)]
        values = layer.matrix().reshape(-1, *layer.kernel_size)
        kernels += list(values[shown[shown[:, 0] == k, 1]].astype(np.float64))
    return tuple(kernels)


def _features(
    kernels: Sequence[np.ndarray],
    layers: Sequence[MappedLayer],
    shown: np.ndarray,
    banks: dict[Size, FilterBank],
) -> np.ndarray:
    """Give what is laid out: unit kernels, one side up, in the middle of the largest size."""
    height, width = (max(kernel.shape[axis] for kernel in kernels) for axis in (0, 1))
    made = np.zeros((len(kernels), height, width))
    for row, kernel, (k, index) in zip(made, kernels, shown, strict=True):
        unit = unit_bank(kernel.reshape(1, -1)).reshape(kernel.shape)
        member = layers[k].member[index]
        # Without a member to compare with, the strongest weight is positive.
        other = unit * np.abs(unit) if member == NONE else banks[kernel.shape].kernels[member]
        sign = np.sign((unit * (other - other.mean())).sum()) or 1.0
        top, left = (height - kernel.shape[0]) // 2, (width - kernel.shape[1]) // 2
        row[top : top + kernel.shape[0], left : left + kernel.shape[1]] = sign * unit
    return made.reshape(len(kernels), -1)
