"""Polynomials of sinusoids, steered at random, of zero mean and unit norm."""

from __future__ import annotations

import numpy as np

from filtersurgeon.errors import OptionError
from filtersurgeon.filters import FilterLayer

_BLOCK = 1 << 14


def psine(
    layer: FilterLayer,
    generator: np.random.Generator,
    *,
    max_power: int = 3,
    lowest: float = 1.0,
    highest: float = 5.0,
) -> np.ndarray:
    """Draw kernels ``sum_i w_i (cos(f_i x) cos(g_i y)^T)^p_i``, powers taken entry by entry.

    ``x`` and ``y`` are ``linspace(0, pi, k)`` along their axes. Every kernel draws its greatest
    power P from 1 to ``max_power`` and has ``l = 2 P + 1`` terms, the fewest that can be steered
    anywhere; powers are from 1 to P, weights from U[-1, 1].
    Source: Gaudio et al., *ExplainFix: Explainable Spatially Fixed Deep Networks*, section 3.1;
    the sinusoid and its frequencies are those of its first footnote. With these, kernels of 5x5
    are not low-pass, as a wave of more than four half turns is too fast for five points; with
    frequencies from 0.5 to 1.5 kernels of every size are.

    Args:
        layer: whose kernels to make.
        generator: draws everything.
        max_power: greatest power.
        lowest: of the frequencies f and g, which are uniform.
        highest: of the frequencies.

    Returns:
        ``(n_kernels, height, width)``, each of mean zero and norm one.
    """
    if max_power < 1 or not lowest < highest:
        raise OptionError("psine: max_power should be at least 1, and lowest below highest")
    blocks = [
        _block(min(_BLOCK, layer.n_kernels - begin), layer, generator, max_power, lowest, highest)
        for begin in range(0, layer.n_kernels, _BLOCK)
    ]
    return np.concatenate(blocks)


def _block(
    n: int,
    layer: FilterLayer,
    generator: np.random.Generator,
    max_power: int,
    lowest: float,
    highest: float,
) -> np.ndarray:
    terms = 2 * max_power + 1
    greatest = generator.integers(1, max_power + 1, (n, 1))
    powers = np.ceil(generator.uniform(0, 1, (n, terms)) * greatest).astype(np.int64)
    weights = generator.uniform(-1, 1, (n, terms))
    weights[np.arange(terms) > 2 * greatest] = 0.0  # the terms beyond 2 P + 1
    waves = [
        np.cos(generator.uniform(lowest, highest, (n, terms, 1)) * np.linspace(0, np.pi, k))
        for k in layer.kernel_size
    ]
    products = waves[0][..., :, None] * waves[1][..., None, :]
    kernels = np.einsum("nt,nthw->nhw", weights, products ** powers[..., None, None])
    kernels -= kernels.mean(axis=(1, 2), keepdims=True)
    norms = np.linalg.norm(kernels, axis=(1, 2), keepdims=True)
    return kernels / np.where(norms > 0, norms, 1.0)
